"""A model behind an OpenAI-compatible endpoint, spoken to by the standard library alone."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

KEY = "FLEDGE_JUDGE_KEY"
TIMEOUT = 120.0  # seconds
PATIENCE = (1.0, 4.0)  # seconds before it is asked again
AT_ONCE = 4
LONGEST = 256  # tokens of a reply


class Endpoint:
    """Replies of a model at `url` (such as `http://localhost:8000/v1`), by its name or the first that the server lists.

    The key, if one is needed, is the environment's `FLEDGE_JUDGE_KEY`. Raises `ValueError` for what is no such address, `OSError` with the
    server's words where it refuses or cannot be reached.
    """

    def __init__(self, url: str, model: str | None = None):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is no address of an endpoint: give one such as http://localhost:8000/v1")
        self.url = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self.model = model or self._first()

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The reply to each prompt, a few asked at a time, at temperature 0."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._reply, prompts))

    def _reply(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": LONGEST}
        told = self._call("/chat/completions", body)
        try:
            return told["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise OSError(f"{self.url}/chat/completions answers {str(told)[:200]!r}, which is no completion") from None

    def _first(self) -> str:
        told = self._call("/models", None)
        try:
            return told["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            raise OSError(f"{self.url}/models lists no model: name one with --judge-model") from None

    def _call(self, path: str, body: dict[str, Any] | None) -> Any:
        key = os.environ.get(KEY)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        for pause in (*PATIENCE, None):
            try:
                with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=TIMEOUT) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refused:
                with refused:
                    said = refused.read(300).decode(errors="replace")
                if pause is None or (refused.code != 429 and refused.code < 500):
                    hint = f" (the key is the environment's {KEY})" if refused.code in (401, 403) else ""
                    raise OSError(f"{self.url}{path} refuses with {refused.code}: {said}{hint}") from None
            except ValueError:
                raise OSError(f"{self.url}{path} does not answer in JSON") from None
            except OSError as failed:
                if pause is None:
                    raise OSError(f"{self.url}{path} cannot be reached: {getattr(failed, 'reason', failed)}") from None
            time.sleep(pause)
        raise AssertionError
