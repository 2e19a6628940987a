"""Limits and keys of the service."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """What the service takes, and from whom.

    Attributes:
        keys: SHA-256 digests of the API keys, 64 hex digits each; without any, everybody may ask.
        max_body_bytes: Size of the largest request.
        max_texts: Texts of the largest request.
        max_queued: Texts that may wait; more are answered with 429.
        wait_s: Seconds for which a batch waits for more texts.
        drain_s: Seconds for which requests may go on when the service is told to end.
    """

    keys: frozenset[str] = frozenset()
    max_body_bytes: int = 32 << 20
    max_texts: int = 2048
    max_queued: int = 16_384
    wait_s: float = 0.002
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_texts", "max_queued"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}"
                raise ValueError(msg)
        if self.max_queued < self.max_texts:
            msg = f"max_queued must be at least max_texts, {self.max_texts}, got {self.max_queued}"
            raise ValueError(msg)
        if bad := [key for key in self.keys if not _DIGEST.fullmatch(key)]:
            msg = f"keys must be SHA-256 digests of 64 hex digits, got one of {len(bad[0])} characters"
            raise ValueError(msg)

    def is_allowed(self, key: str | None) -> bool:
        """Tells whether a caller with this key may ask; takes the same time whichever key it is."""
        if not self.keys:
            return True
        given = digest(key or "")
        return any([hmac.compare_digest(given, known) for known in self.keys])


def digest(key: str) -> str:
    """Returns the SHA-256 digest of an API key, by which alone it is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> frozenset[str]:
    """Reads digests, one a line; what follows one on its line says whose it is.

    Raises:
        ValueError: If a line does not begin with a digest.
    """
    lines = [line.split(maxsplit=1)[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, word in enumerate(lines, start=1):
        if not _DIGEST.fullmatch(word):
            msg = f"{path} must have a key's SHA-256 digest on each line (m3 serve --new-key), line {number} has none"
            raise ValueError(msg)
    return frozenset(lines)


def check_host(host: str, keys: Iterable[str], *, public: bool) -> None:
    """Refuses to listen where others can reach the service and no key is asked for.

    Raises:
        ValueError: If so, unless `public` says that it is meant.
    """
    if not any(keys) and not public and not is_loopback(host):
        msg = f"--host {host} can be reached by others, and no key is asked for; give --keys FILE, or say --public"
        raise ValueError(msg)


def is_loopback(host: str) -> bool:
    """Tells whether an address is this machine's alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
