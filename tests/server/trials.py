"""Requests of every kind, valid and not, for every route: each is answered soon, and none by a fault of the server.

A small share of them is a test (test_trials.py), all of them a campaign (benchmarks/serve_fuzz.py).
"""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from tests.server.starting import KEY

LOCK = {"Authorization": f"Bearer {KEY}"}
KINDS = ("valid", "invalid", "mutated", "bytes", "wire")
HANGS = 30.0  # seconds after which a request hangs
ASKS: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "base", "prompt": "def ", "max_tokens": 3, "n": 1, "logprobs": 2, "echo": True, "stop": ["x"], "seed": 1, "stream": False,
        "logit_bias": {"5": 1.0}, "temperature": 0.5, "top_p": 0.9, "response_format": {"type": "regex", "regex": "a+"},
    },
    "/v1/chat/completions": {
        "model": "assistant", "messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hello"}], "max_tokens": 3,
        "logprobs": True, "top_logprobs": 2, "stream": False, "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    },
    "/v1/embeddings": {"model": "encoder", "input": ["one", "two"], "encoding_format": "float"},
    "/v1/classify": {"model": "classifier", "input": ["one", "two"], "explain": False},
}  # fmt: skip
ROUTES = (*ASKS, "/v1/models", "/v1/models/base", "/health", "/metrics", "/", "/page/index.html", "/nowhere")
METHODS = ("GET", "GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW")

texts = st.text(max_size=30) | st.sampled_from(["", "<|im_end|>", "\x00", "\ud800", "base", "{{ 7 * 7 }}", "'; --", "../../etc/passwd"])
numbers = st.integers(-3, 70) | st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 1e308, 10**400])
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
LIKE = {bool: st.booleans(), int: st.integers(0, 4), float: st.floats(0, 1), str: texts}  # what may well be valid


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A request that was valid until something in it was replaced, left out, added or doubled, at any depth."""
    route = draw(st.sampled_from(sorted(ASKS)))
    body = json.loads(json.dumps(ASKS[route]))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            match draw(st.sampled_from(["replace", "remove", "add", "double"])):
                case "replace":
                    place[key] = draw(LIKE.get(type(place[key]), anything) if draw(st.booleans()) else anything)
                case "remove":
                    del place[key]
                case "add" if isinstance(place, dict):
                    place[draw(texts)] = draw(anything)
                case _ if isinstance(place, list):
                    place.append(draw(anything))
            break
    return route, body


@st.composite
def of_bytes(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    """Any method on any route, with any bytes for a body and headers that may not fit it."""
    whole = json.dumps(draw(st.sampled_from(list(ASKS.values())))).encode()
    cut = draw(st.integers(0, len(whole)))
    broken = [whole[:cut], b"[" * 5000, whole + whole, whole.decode().encode("utf-16")]
    body = draw(st.binary(max_size=80) | st.sampled_from(broken))
    kinds = ["application/json", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "", "application/x-ndjson"]
    headers = {"Content-Type": draw(st.sampled_from(kinds))}
    if draw(st.booleans()):
        headers[draw(st.sampled_from(["Origin", "If-None-Match", "Accept", "Range", "X-Forwarded-Host", "Expect"]))] = draw(
            st.sampled_from(["null", "*", "bytes=0-", "http://evil.example", "100-continue"])
        )
    return draw(st.sampled_from(METHODS)), draw(st.sampled_from(ROUTES)), body, headers


class Fuzz:
    """Requests to a server at a URL, that serves `base`, `assistant`, `classifier` and `encoder`; what was wrong with its answers."""

    def __init__(self, url: str):
        self.url, self.statuses, self.wrong = url, Counter[str](), list[str]()
        self.tried, self.slowest = Counter[str](), 0.0
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=LOCK)
        self.client, self.session = httpx2.Client(base_url=url, timeout=HANGS, verify=False, trust_env=False), requests.Session()

    def close(self) -> None:
        self.client.close()
        self.session.close()

    def golden(self) -> dict[str, Any]:
        """Answers that stay what they are, whatever was asked in between."""
        found = {}
        for route, body in ASKS.items():
            answer = self.client.post(route, json=body, headers=LOCK)
            answer.raise_for_status()
            found[route] = {name: value for name, value in answer.json().items() if name in ("choices", "data", "usage")}
        return found

    def run(self, kind: str, cases: int, number: int) -> None:
        """Try so many cases of a kind, drawn by this seed."""
        if kind in ("valid", "invalid"):
            mode = schemathesis.GenerationMode.POSITIVE if kind == "valid" else schemathesis.GenerationMode.NEGATIVE
            operations: list[Any] = [found.ok() for found in self.schema.get_all_operations() if isinstance(found, Ok)]
            asking = [one for one in operations if one.method.lower() == "post"]
            for operation in operations if kind == "valid" else asking:
                share = 1 + cases // len(asking) if operation in asking else 1
                self._each(kind, operation.as_strategy(generation_mode=mode), share, number, self._described)
        else:
            strategy = {"mutated": mutated(), "bytes": of_bytes(), "wire": st.tuples(st.sampled_from(ROUTES), st.binary(max_size=60))}[kind]
            attempt: Callable[[Any], tuple[int, bytes, str]] = getattr(self, f"_{kind}")
            self._each(kind, strategy, cases, number, attempt)

    def _each(self, kind: str, strategy: Any, cases: int, number: int, attempt: Callable[[Any], tuple[int, bytes, str]]) -> None:
        """Hypothesis draws; nothing is made smaller, for what went wrong is counted and not raised."""

        @seed(number)
        @settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(strategy)
        def tried(case: Any) -> None:
            began = time.monotonic()
            try:
                status, content, shown = attempt(case)
            except (httpx2.HTTPError, requests.RequestException, TimeoutError) as error:
                self.wrong.append(f"{kind}: {type(error).__name__} for {case!r:.300}")
                return
            self.tried[kind] += 1
            self.statuses[f"{kind} {status}"] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if (complaint := unfit(status, content)) is not None:
                self.wrong.append(f"{kind}: {complaint} for {shown:.300}")

        if cases:
            tried()

    def _described(self, case: Any) -> tuple[int, bytes, str]:
        if isinstance(case.body, dict) and case.body.get("model") and hash(str(case.body)) % 4:
            case.body["model"] = ASKS[case.operation.path]["model"]  # else most would be answered that there is no such model
        answer = case.call(base_url=self.url, headers=LOCK, session=self.session, timeout=HANGS)
        return answer.status_code, answer.content, f"{case.operation.label} {case.body!r}"

    def _mutated(self, case: tuple[str, Any]) -> tuple[int, bytes, str]:
        route, body = case
        headers = {"Content-Type": "application/json", **LOCK}
        answer = self.client.post(route, content=json.dumps(body).encode(), headers=headers)
        return answer.status_code, answer.content, f"{route} {body!r}"

    def _bytes(self, case: tuple[str, str, bytes, dict[str, str]]) -> tuple[int, bytes, str]:
        method, route, body, headers = case
        answer = self.client.request(method, route, content=body, headers={**headers, **LOCK})
        return answer.status_code, b"" if method == "HEAD" else answer.content, repr(case)

    def _wire(self, case: tuple[str, bytes]) -> tuple[int, bytes, str]:
        """What is hardly HTTP: an answer that says so, or none."""
        route, junk = case
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
            connection.sendall(b"POST " + route.encode() + b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n" + junk + b"\r\n\r\n" + junk)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except ConnectionError:
                pass
        found = re.match(rb"HTTP/1\.[01] (\d+)", answer)
        return int(found[1]) if found else 0, b"", repr(case)


def unfit(status: int, content: bytes) -> str | None:
    """What is wrong with an answer: a fault of the server, or a refusal that is not in OpenAI's form."""
    if status >= 500:
        return f"status {status}"
    if status < 400 or not content:
        return None
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {status} without an error in OpenAI's form"
    good = isinstance(error["message"], str) and error["message"] and set(error) == {"message", "type", "param", "code"}
    return None if good else f"an error of {sorted(error)}"


def shares(cases: int, kinds: Sequence[str] = KINDS) -> dict[str, int]:
    """Equal shares of each kind."""
    return {kind: cases // len(kinds) + (place < cases % len(kinds)) for place, kind in enumerate(kinds)}
