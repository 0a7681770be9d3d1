"""Answers that are none, in OpenAI's form."""

from typing import Any

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
LONGEST = 1000  # characters of a message


class Refusal(Exception):
    """Why a request is not answered: HTTP's status, a sentence, a `code`, the parameter at fault, and in how many seconds to come back."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None, retry: int | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry = status, message, code, param, retry

    @property
    def headers(self) -> dict[str, str]:
        known = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return known | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def to_json(self) -> dict[str, Any]:
        """https://platform.openai.com/docs/guides/error-codes"""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = self.message if len(self.message) <= LONGEST else self.message[: LONGEST - 1] + "…"
        return {"error": {"message": message.encode("utf-8", "replace").decode(), "type": kind, "param": self.param, "code": self.code}}
