"""How much a server takes at a time, and whom it listens to."""

import hashlib
import hmac
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fledge.server.refusal import Refusal

LEAST_KEY = 8  # characters


@dataclass(frozen=True)
class Limits:
    """How much is taken at a time: of each model, of each request, and how long a connection may take.

    Attributes:
        slots: answers of a model under way side by side.
        queue: answers of a model that wait for a slot.
        tokens: of an answer, at most.
        body: bytes of a request.
        messages: of a conversation, or prompts of a request.
        choices: answers to one prompt (`n`).
        texts: to embed or classify in one request.
        explained: texts whose words are weighed in one request.
        connections: that are open at a time.
        patience: seconds in which a request has arrived, and in which a reader makes room for what was sent.
        drain: seconds for what is under way when the server is asked to end.
    """

    slots: int = 4
    queue: int = 32
    tokens: int = 4096
    body: int = 4 << 20
    messages: int = 512
    choices: int = 16
    texts: int = 256
    explained: int = 4
    connections: int = 512
    patience: float = 20.0
    drain: float = 60.0

    def __post_init__(self):
        for name, least in (("slots", 1), ("queue", 0), ("tokens", 1), ("connections", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but at least {least} is needed")


@dataclass(frozen=True)
class Access:
    """Whom a server listens to: on `host`, those who know the `key`, if there is one, who call it by an address or by one of `names`.

    Raises `ValueError` for a host that others reach and no key.
    """

    host: str = "127.0.0.1"
    key: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.key is None and not self.local:
            raise ValueError(
                f"--host {self.host} lets others reach this server, which needs a key: put one into a file and give --key-file FILE, "
                "or set FLEDGE_KEY; without a key use --host 127.0.0.1"
            )
        if self.key is not None and (len(self.key) < LEAST_KEY or not self.key.isascii() or not self.key.isprintable() or " " in self.key):
            raise ValueError(
                f"a key needs at least {LEAST_KEY} characters, of ASCII and without blanks: "
                "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one"
            )

    @property
    def local(self) -> bool:
        """Whether nobody but programs on this machine reaches it."""
        return self.host == "localhost" or (_address(self.host) is not None and ipaddress.ip_address(self.host).is_loopback)

    def check(self, headers: Mapping[str, str], free: bool) -> None:
        """Raises `Refusal` for a request that comes from another site, calls the server by a strange name, or lacks the key unless `free`.

        A page of another site that made its own name point here would call it by that name.
        """
        host = headers.get("host", "")
        if not self._knows(host):
            raise Refusal(403, "this server does not go by that Host: call it by its address, or start it with --name NAME", "host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Refusal(403, "requests from pages of other sites are refused (Origin)", "origin")
        if self.key is not None and not free and not self._has_key(headers.get("authorization", "")):
            raise Refusal(401, "this server needs its key: send the header `Authorization: Bearer KEY`", "invalid_api_key")

    def _knows(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        known = {"localhost", self.host.lower(), *map(str.lower, self.names)}
        return name in known or (_address(name) is not None and (not self.local or ipaddress.ip_address(name).is_loopback))

    def _has_key(self, header: str) -> bool:
        """Whether the header holds the key; it takes as long whatever it holds."""
        kind, _, given = header.partition(" ")
        digests = [hashlib.sha256(text.strip().encode()).digest() for text in (given, self.key or "")]
        return hmac.compare_digest(*digests) and kind.lower() == "bearer"


def stored_key(path: str | Path | None) -> str | None:
    """The key in a file, or in the environment's `FLEDGE_KEY`; none if neither is there.

    Raises `ValueError` for a file that holds none.
    """
    if path is None:
        return os.environ.get("FLEDGE_KEY") or None
    key = Path(path).read_text(encoding="utf-8").strip()
    if not key:
        raise ValueError(f"--key-file {path} is empty: it holds the key, on a line of its own")
    return key


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is one that is free. Raises `ValueError` for a port that is taken, and for no address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as reason:
        raise ValueError(
            f"cannot listen on port {port} of {host} ({reason}): choose another with --port, or an address of this machine"
        ) from None


def _address(name: str) -> str | None:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None
