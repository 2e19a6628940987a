"""A server's URI, taken apart here because the versions of pymilvus read it differently.

2.6.10 takes `user:password@host` for the host and shows it in errors, has no default port and no Unix
sockets; https means port 443 from 2.6.12 on; none of them decodes the %XX of a password. All of them
connect alike to `scheme://host:port`, with token and database apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 19530, "tcp": 19530, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where to connect.

    Attributes:
        uri: A URL without credentials (it may be shown), or the path of Milvus Lite.
        token: An API key or "user:password"; "" is none.
        database: Name of the database; "" is the default one.
    """

    uri: str
    token: str = field(default="", repr=False)
    database: str = ""

    @property
    def place(self) -> str:
        """What tells one set of collections from another; it may be shown."""
        return f"{self.uri}/{self.database}" if self.database else self.uri


def is_server(uri: object) -> bool:
    """Whether this is a server's address, and not a path."""
    return "://" in str(uri) or str(uri).startswith("unix:")


def server_address(uri: str, token: str | None = None, database: str | None = None) -> Address:
    """What a URI says; `token` and `database` go before what is in it.

    Example:
        >>> server_address("https://me:secret@example.org/docs")
        Address(uri='https://example.org:443', database='docs')

    Raises:
        ValueError: If it is none. The message does not repeat it: half of it may be a password.
    """
    if uri.startswith("unix:"):
        return Address(uri, token or "", database or "")
    try:
        parts = urlsplit(uri)
        host, port, path = parts.hostname, parts.port or _PORTS[parts.scheme], parts.path.strip("/")
        if not host or parts.query or parts.fragment or not re.fullmatch(r"\w*", path, re.ASCII):
            raise ValueError
    except (ValueError, KeyError):
        msg = (
            "uri must be http(s)://[user:password@]host[:port][/database], tcp:// likewise, or unix:path, and the one "
            "given is not; write special characters of a password as %XX, or pass the password as token"
        )
        raise ValueError(msg) from None
    credentials = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
    host = f"[{host}]" if ":" in host else host
    return Address(f"{parts.scheme}://{host}:{port}", token or credentials, database or path)
