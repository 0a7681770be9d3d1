"""The parts of the server by themselves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fledge.server.asked import Chat, Completion, Format, sentence
from fledge.server.limits import Access, Limits
from fledge.server.metrics import SECONDS, Metrics
from fledge.server.refusal import LONGEST, Refusal
from fledge.server.spelling import Spelling, named
from fledge.text import Tokenizer
from fledge.text.messages import as_turns, with_tools
from fledge.verbs.serving import named as named_places

TEXTS = ["the cat sat on the mat\n", "für 10 € – 空は青い 🙂", "def f(x):\n\treturn x"]
TOKENIZERS = {
    "bytes": Tokenizer.bytes(),
    "bpe": Tokenizer.train(TEXTS * 3, 448),
    "characters": Tokenizer.characters(TEXTS),
    "wordpiece": Tokenizer.train(TEXTS * 3, 448, kind="wordpiece"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_are_spelled_as_the_text_has_them(kind):
    """Texts and places of the tokens lie in the text of all of them; where tokens are bytes, these are its bytes."""
    tokenizer, rng = TOKENIZERS[kind], random.Random(0)
    for _ in range(40):
        text = "".join(rng.choice(rng.choice(TEXTS)) for _ in range(rng.randint(1, 12)))
        tokens = tokenizer.encode(text)
        whole, spelling = tokenizer.decode(tokens), Spelling(tokenizer)
        marks = [spelling.add(token, -1.0, []) for token in tokens]
        if kind in ("bytes", "bpe"):
            assert b"".join(bytes(mark["bytes"]) for mark in marks) == text.encode()
        for mark in marks:
            assert mark["token"].startswith("bytes:") or whole[mark["offset"] :].startswith(mark["token"].replace("\ufffd", ""))


def test_every_token_has_a_name_and_control_tokens_their_own():
    for tokenizer in TOKENIZERS.values():
        for token in range(tokenizer.size):
            text, raw = named(tokenizer, [], token)
            assert raw.decode("utf-8", "replace") or not text
        assert all(named(tokenizer, [], number)[0] == name for name, number in tokenizer.controls.items())
    assert named(TOKENIZERS["bytes"], [], TOKENIZERS["bytes"].encode("€")[0]) == (r"bytes:\xe2", b"\xe2")


LOOPBACK = ("127.0.0.1", "::1", "localhost", "127.1.2.3")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "models.example.org"])
def test_whoever_others_reach_needs_a_key(host):
    with pytest.raises(ValueError, match=f"--host {host} lets others"):
        Access(host)
    assert not Access(host, "a-long-key").local
    assert all(Access(name).local for name in LOOPBACK)


@pytest.mark.parametrize("key", ["short", "has blanks in it", "schlüssel-lang", "\x00\x00\x00\x00\x00\x00\x00\x00"])
def test_a_key_is_long_enough_and_goes_into_a_header(key):
    with pytest.raises(ValueError, match="at least 8 characters"):
        Access("127.0.0.1", key)


def test_a_server_for_others_goes_by_its_addresses_and_names():
    access = Access("0.0.0.0", "a-long-key", ("models.example.org",))
    known = {"authorization": "Bearer a-long-key"}
    for host in ("10.1.2.3:8000", "[fe80::1]:80", "models.example.org", "MODELS.example.org:443", "localhost"):
        access.check({"host": host, **known}, free=False)
        access.check({"host": host, "origin": f"https://{host}", **known}, free=False)
    for host in ("evil.example", "models.example.org.evil.example", "[::1", "a b", "models.example.org@evil.example"):
        with pytest.raises(Refusal, match="Host"):
            access.check({"host": host, **known}, free=True)


@given(st.text(max_size=40))
def test_no_other_key_fits(text):
    access = Access(key="a-long-key")
    for header in (text, f"Bearer {text}", f"Basic {text}"):
        if header.split() != ["Bearer", "a-long-key"]:
            with pytest.raises(Refusal) as refused:
                access.check({"host": "127.0.0.1", "authorization": header}, free=False)
            assert refused.value.status == 401
            assert refused.value.headers["WWW-Authenticate"] == "Bearer"


def test_limits_are_at_least_one():
    with pytest.raises(ValueError, match="slots is 0"):
        Limits(slots=0)
    assert Limits(queue=0).queue == 0


def test_histograms_add_up():
    metrics = Metrics()
    for seconds in (0.001, 0.02, 0.02, 99):
        metrics.time("fledge_request_seconds", seconds, route='a"b\\c\n')
    lines = metrics.text({}, ready=False).splitlines()
    buckets = [int(line.split()[-1]) for line in lines if "_bucket" in line]
    assert len(buckets) == len(SECONDS) + 1
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-2], buckets[-1]) == (1, 3, 4)
    assert r'fledge_request_seconds_count{route="a\"b\\c\n"} 4' in lines


def test_models_have_their_folders_names_unless_given_others(tmp_path):
    (tmp_path / "a=b").mkdir()
    places = {"a": "runs/a", "b": "runs/a", "SmolLM2": "HuggingFaceTB/SmolLM2", "a=b": str(tmp_path / "a=b")}
    assert named_places(["runs/a", "b=runs/a", "HuggingFaceTB/SmolLM2", str(tmp_path / "a=b")]) == places
    with pytest.raises(ValueError, match="two models are named a"):
        named_places(["runs/a", "other/a"])


def test_tools_stand_in_the_system_message():
    tool = {"name": "weather", "parameters": {"type": "object"}}
    user = {"role": "user", "content": "Is it raining?"}
    for before, said in (
        ([], ""),
        ([{"role": "developer", "content": "Be kind."}], "Be kind.\n\n"),
        ([{"role": "system", "content": None}], ""),
    ):
        first, rest = as_turns(with_tools([*before, user], [tool]))
        assert (first.role, rest.role) == ("system", "user")
        assert first.content.startswith(said + "You can call")
        assert '<tools>\n{"name": "weather", "parameters": {"type": "object"}}\n</tools>' in first.content
        assert first.content.endswith("</tool_call>")


def test_formats_say_what_they_lack():
    assert Format(type="json_object").contract() == {"schema": {"type": "object"}}
    assert Format(type="text").contract() is None
    assert Format.model_validate({"type": "json_schema", "json_schema": {"schema": {"a": 1}}}).contract() == {"schema": {"a": 1}}
    for kind in ("json_schema", "regex", "choice"):
        with pytest.raises(Refusal, match=f"needs {kind} beside it"):
            Format(type=kind).contract()


def test_seeds_are_any_of_64_bits_and_names_are_short():
    for given_seed, ours in ((0, 0), (-1, 2**64 - 1), (2**64 - 1, 2**64 - 1)):
        assert Completion(model="a", seed=given_seed).settings()["seed"] == ours
    with pytest.raises(ValidationError) as wrong:
        Chat.model_validate({"model": "a", "messages": [{"role": "user", "content": {"x" * 9999: 1}}]})
    said = sentence(dict(wrong.value.errors()[0]), [])
    assert len(said.message) < 300
    assert len(Refusal(400, "x" * 99_999).to_json()["error"]["message"]) == LONGEST
