"""Who is asking: one key, a file of hashed tokens for several clients, or a user name from a trusted proxy.

The token file has one client a line, ``NAME SHA256`` or ``NAME SHA256 PER_MINUTE``; blank lines and ``#`` comments are
skipped. It holds hashes only; ``pathassist token NAME --file tokens.txt`` adds one. The file is read again
when it changes, so a client is let in or shut out without a restart. Tokens are 256 random bits, hence a plain hash.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from assistant.api_schema import HttpError
from assistant.errors import BadInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_USER = re.compile(r"[\x21-\x7e]{1,256}")
_BUCKETS = 10_000


@dataclass(frozen=True)
class Client:
    """Who asks; ``per_minute`` is this client's own rate limit, None for the server's."""

    name: str
    per_minute: int | None = None

    @property
    def hashed(self) -> str:
        """How the audit log names the client."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def new_token(file: Path, name: str, per_minute: int | None = None) -> str:
    """Add a client to a token file, which appears whole and readable by its owner only; returns the token.

    Raises:
        BadInput: A name with other signs, one that is there already, or a file that cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"the client name is {name[:64]!r}; use up to 64 letters, digits and . _ @ -")
    known = read_tokens(file) if file.exists() else []
    if any(client.name == name for client, _ in known):
        raise BadInput(f"{file.name} has a client {name!r} already; remove its line first to give it a new token")
    token = f"pa-{secrets.token_urlsafe(32)}"
    line = " ".join([name, token_hash(token), *([str(per_minute)] if per_minute else [])])
    partial = file.with_name(f".{file.name}.part")
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(before + ("\n" if before and not before.endswith("\n") else "") + line + "\n")
        partial.replace(file)
    except OSError as error:
        raise BadInput(f"cannot write the token file {file}: {error.strerror}; choose another --file") from None
    return token


def read_tokens(file: Path) -> list[tuple[Client, bytes]]:
    """Clients and the hashes of their tokens.

    Raises:
        BadInput: The file cannot be read, a line is malformed (its number is named, its content is not), or none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"cannot read the token file {file}: {reason}; make one with: pathassist token NAME") from None
    found: dict[str, tuple[Client, bytes]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        limit = words[2] if len(words) == 3 else None
        right = len(words) in (2, 3) and _NAME.fullmatch(words[0]) and _HASH.fullmatch(words[1])
        if not right or (limit is not None and not (limit.isascii() and limit.isdigit() and int(limit))):
            raise BadInput(f"line {number} of {file.name} is not 'NAME SHA256 [PER_MINUTE]'; see: pathassist token -h")
        if words[0] in found:
            raise BadInput(f"line {number} of {file.name} names {words[0]!r} a second time; remove one of the two")
        found[words[0]] = Client(words[0], int(limit) if limit else None), words[1].encode()
    if not found:
        raise BadInput(f"the token file {file} names no client; add one with: pathassist token NAME --file {file.name}")
    return list(found.values())


def networks(addresses: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks of trusted proxies.

    Raises:
        BadInput: One of them is neither.
    """
    out = []
    for address in addresses:
        try:
            out.append(ipaddress.ip_network(address.strip()))
        except ValueError:
            raise BadInput(f"{address!r} is no address or network; write for example 10.0.0.5 or 10.0.0.0/24") from None
    return tuple(out)


class Authenticator:
    """Tells who sent a request, from its headers and its address.

    Args:
        api_key: One key for everybody, or None.
        token_file: File of hashed tokens, or None.
        proxies: Addresses whose ``user_header`` is believed; from any other address the header means nothing.
        user_header: Lower-case header in which the proxy puts the user that it has signed in (OpenID Connect).

    Raises:
        BadInput: A file or address that is wrong.
    """

    def __init__(
        self,
        api_key: str | None = None,
        token_file: Path | None = None,
        proxies: Iterable[str] = (),
        user_header: str = "x-forwarded-user",
    ) -> None:
        self._key = token_hash(api_key).encode() if api_key else None
        self._file = token_file
        self._proxies = networks(proxies)
        self.user_header = user_header.lower()
        self._stamp: tuple[int, int] | None = None
        self._known: list[tuple[Client, bytes]] = []
        if token_file is not None:
            self._refresh(strict=True)

    @property
    def required(self) -> bool:
        """Whether a request without credentials is refused."""
        return bool(self._key or self._file or self._proxies)

    def client(self, headers: list[tuple[bytes, bytes]], address: str) -> Client:
        """Who asks.

        Raises:
            HttpError: 401 without, or with wrong credentials.
        """
        if not self.required:
            return Client(address)
        if self._proxies and _inside(address, self._proxies):
            users = [value for name, value in headers if name.lower() == self.user_header.encode()]
            text = users[0].decode("latin-1") if len(users) == 1 else ""  # two of them: one came past the proxy
            if _USER.fullmatch(text):
                return Client(f"user:{text}")
        given = [value for name, value in headers if name.lower() == b"authorization"]
        scheme, _, key = (given[0] if given else b"").partition(b" ")
        found = self._match(hashlib.sha256(key.strip()).hexdigest().encode())
        if found is None or scheme.lower() != b"bearer":
            raise HttpError(
                401,
                "invalid_api_key",
                f"{'wrong' if key else 'no'} API key; send the header 'Authorization: Bearer <key>'",
                {"www-authenticate": "Bearer"},
            )
        return found

    def _match(self, digest: bytes) -> Client | None:
        """The owner of a hash. Every known hash is compared, so the time taken does not tell which was nearest."""
        if self._file is not None:
            self._refresh()
        found = None
        if self._key is not None and hmac.compare_digest(digest, self._key):
            found = Client("key")
        for client, known in self._known:
            if hmac.compare_digest(digest, known):
                found = client
        return found

    def _refresh(self, strict: bool = False) -> None:
        assert self._file is not None  # noqa: S101
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._known, self._stamp = read_tokens(self._file), stamp
        except (OSError, BadInput) as error:
            if strict:
                if isinstance(error, BadInput):
                    raise
                raise BadInput(
                    f"cannot read the token file {self._file}: {error.strerror}; make one with: pathassist token NAME"
                ) from None
            self._known, self._stamp = [], None  # a file that went away or broke lets nobody in


def _inside(address: str, allowed: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in allowed)


class RateLimit:
    """A token bucket for every client: ``per_minute`` on average, as many at once.

    Args:
        per_minute: For clients without a limit of their own; None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name → (left, when)

    def spend(self, client: Client, now: float | None = None) -> None:
        """Count one request.

        Raises:
            HttpError: 429 with ``Retry-After``.
        """
        limit = client.per_minute or self.per_minute
        if not limit:
            return
        now = time.monotonic() if now is None else now
        with self._lock:
            left, when = self._buckets.pop(client.name, (float(limit), now))
            left = min(float(limit), left + (now - when) * limit / 60)
            self._buckets[client.name] = (max(0.0, left - 1) if left >= 1 else left, now)
            while len(self._buckets) > _BUCKETS:
                self._buckets.popitem(last=False)
        if left < 1:
            wait = max(1, round((1 - left) * 60 / limit + 0.5))
            raise HttpError(
                429,
                "rate_limit_exceeded",
                f"more than {limit} requests a minute; try again in {wait} s",
                {"retry-after": str(wait)},
            )
