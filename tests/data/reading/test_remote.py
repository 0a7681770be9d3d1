"""URLs and data sets: read as they come, gone on with after an interruption, and named where they fail."""

import gzip
import http.server
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fledge.data.documents import Document, Rejected
from fledge.data.reading import hub, remote
from fledge.data.reading.hub import DataSet, data_set
from fledge.data.sources import find, read, read_input
from tests.data.reading.making import tables

TEXT = "".join(f"line {number}\n" for number in range(200_000))


class Server(http.server.BaseHTTPRequestHandler):
    """Files by name, whole or in ranges; every `breaks`-th answer ends in the middle."""

    files: dict[str, bytes]
    ranges, breaks, answers = True, 0, 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        cls = type(self)
        name = self.path.partition("?")[0].strip("/")
        if name not in self.files:
            self.send_error(404)
            return
        data = self.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.ranges else None
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self.send_response(206 if asked else 200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cls.answers += 1
        if self.breaks and cls.answers % self.breaks == 0:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        else:
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, format, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[tuple[str, type[Server]]]:
    monkeypatch.setattr(remote, "BLOCK", 1 << 18)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    kind = type("Handler", (Server,), {"files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        running.handle_error = lambda request, client_address: None  # a reader that goes away
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", kind
        running.shutdown()
        thread.join()


def texts(*sources: str, **settings) -> list[str]:
    return [item.text for one in find(sources) for item in read_input(one, **settings) if isinstance(item, Document)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_url_is_read_as_its_file_would_be(server, ranges):
    url, kind = server
    kind.ranges = ranges
    kind.files = {
        "a.txt": TEXT.encode(),
        "b.jsonl.gz": gzip.compress(b'{"text": "row"}\n'),
        "page": b"<!doctype html><title>T</title><p>text",
        "rows.parquet": tables([{"text": "cell"}])["parquet"],
    }
    assert texts(f"{url}/a.txt", f"{url}/b.jsonl.gz?token=1", f"{url}/page", f"{url}/rows.parquet") == [TEXT, "row", "T\n\ntext", "cell"]
    (one,) = find([f"web={url}/a.txt"])
    assert (one.named, one.size, one.group, one.place) == (True, len(TEXT), "web", "url")
    (item,) = read_input(one)
    assert item == Document(TEXT, f"{url}/a.txt", group="web")
    assert one.fingerprint() == find([f"{url}/a.txt"])[0].fingerprint()
    kind.files["a.txt"] += b"more"
    assert one.fingerprint() != find([f"{url}/a.txt"])[0].fingerprint()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_transfer_goes_on_or_names_its_url(server, ranges):
    url, kind = server
    kind.ranges, kind.files, kind.breaks = ranges, {"a.txt": TEXT.encode(), "a.zip": b"PK" * 100_000}, 2
    found = find([f"{url}/a.txt"])
    kind.answers = 1
    assert [item.text for item in read_input(found[0]) if isinstance(item, Document)] == [TEXT]
    assert kind.answers > 2
    kind.breaks = 1
    for name in ("a.txt", "a.zip"):
        with pytest.raises(ConnectionError, match=rf"{url}/{name}: the transfer broke off after [\d,]+ bytes"):
            list(read_input(replace(found[0], path=f"{url}/{name}")))


def test_a_url_of_nothing_is_named(server):
    url, _ = server
    with pytest.raises(ValueError, match=f"{url}/no.txt does not exist"):
        find([f"{url}/no.txt"])
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/a.txt cannot be looked up"):
        find(["http://127.0.0.1:9/a.txt"])


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    boto = pytest.importorskip("boto3")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto.client("s3")
    client.create_bucket(Bucket="texts")
    for name, data in {
        "notes/b.txt": b"second",
        "notes/a.jsonl.gz": gzip.compress(b'{"text": "first"}\n'),
        "notes/in/c.parquet": tables([{"text": "third"}])["parquet"],
        "notes/.hidden/d.txt": b"not read",
        "other/e.txt": b"not asked for",
    }.items():
        client.put_object(Bucket="texts", Key=name, Body=data)
    yield "s3://texts"
    running.stop()


def test_a_bucket_is_read_by_folder_pattern_and_name(bucket):
    assert texts(f"{bucket}/notes/") == ["first", "second", "third"]
    assert texts(f"{bucket}/notes/*.txt", f"{bucket}/notes/b.txt") == ["second"]
    assert texts(f"{bucket}/**/*.parquet") == ["third"]
    assert [(one.path, one.size, one.named) for one in find([f"{bucket}/other"])] == [(f"{bucket}/other/e.txt", 13, False)]
    assert [one.named for one in find([f"{bucket}/notes/b.txt"])] == [True]
    for nothing in ("none.txt", "none/*.txt"):
        with pytest.raises(ValueError, match=f"{re.escape(nothing)} (does not exist|holds no files)"):
            find([f"{bucket}/{nothing}"])


def test_ids_of_data_sets_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = DataSet("org/name", "v2", "en", "test")
    assert DataSet.parse(str(whole)) == whole
    assert DataSet.parse("org/name") == DataSet("org/name") == DataSet.parse(str(DataSet("org/name")))
    for path in ("/org/name", "org/name/more", "name", "org/name?split=test", "hf://datasets/org/name/data/a.parquet", "s3://org/name"):
        assert DataSet.parse(path) is None
    with pytest.raises(ValueError, match=r"org/name does not exist: there is no folder org; as a data set's id it cannot be looked up"):
        find(["org/name"])
    with pytest.raises(ValueError, match="hf://datasets/org/name: as a data set's id it cannot be looked up, for HF_HUB_OFFLINE is set"):
        find(["hf://datasets/org/name"])
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").write_text("a file")
    assert texts("org/name") == ["a file"]


def test_a_data_set_streams_its_train_split(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f'{{"n": {i}, "page": {{"text": "{split} {i}"}}}}\n' for i in range(3)))
    items = list(data_set(DataSet(str(tmp_path)), "page.text", 1 << 20))
    assert [(item.text, item.line) for item in items if isinstance(item, Document)] == [(f"train {i}", i + 1) for i in range(3)]
    assert items[0].source.endswith("?split=train")
    other = list(data_set(DataSet(str(tmp_path), split="test"), "page.text", 1 << 20))
    assert [item.text for item in other if isinstance(item, Document)] == ["test 0", "test 1", "test 2"]
    with pytest.raises(ValueError, match=r"none.*: "):
        list(data_set(DataSet(str(tmp_path / "none")), None, 1 << 20))


def test_what_datasets_saved_is_read_without_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(10)]})
    made.shuffle(seed=1).save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": made, "test": made.select([3])}).save_to_disk(tmp_path / "two")
    assert sorted(texts(str(tmp_path / "one"))) == sorted(made["text"])
    assert [Path(one.path).name[-21:] for one in find([str(tmp_path / "one")])] == [f"data-0000{i}-of-00003.arrow"[-21:] for i in range(3)]
    kept = [item for item in read([str(tmp_path / "two")]) if isinstance(item, Document)]
    assert [item.text for item in kept] == ["row 3", *made["text"]]
    assert not [item for item in read([str(tmp_path)]) if isinstance(item, Rejected)]


def test_the_hub_is_not_asked_where_it_must_not_be():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        hub.newest(DataSet("org/name"))
