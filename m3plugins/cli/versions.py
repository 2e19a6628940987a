"""Versions of the installed distributions, and of what their metadata ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

CORE = "m3plugins"
INTEGRATIONS = ("m3plugins-milvus", "m3plugins-elasticsearch", "langchain-m3plugins", "llama-index-m3plugins")
_DEVELOPMENT = ("test", "dev")


@dataclass(frozen=True)
class Package:
    """A package that a distribution asks for.

    Attributes:
        name: Name of the package.
        wanted: The versions that will do, as in ">=1.26"; "" for any.
        version: The installed one; "" for none.
        suits: Whether the installed version will do.
    """

    name: str
    wanted: str
    version: str
    suits: bool


def installed() -> dict[str, str]:
    """Versions of m3plugins and of those of its integrations that are installed."""
    versions = {name: version_of(name) for name in (CORE, *INTEGRATIONS)}
    return {name: found for name, found in versions.items() if found} or {CORE: "run from source"}


def version_of(distribution: str) -> str:
    """The installed version; "" for none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def extras(distribution: str) -> list[str]:
    """The extras that users install."""
    return [extra for extra in metadata(distribution).get_all("Provides-Extra") or () if extra not in _DEVELOPMENT]


def packages(distribution: str, extra: str = "") -> Iterator[Package]:
    """Lists what an extra asks for, or the distribution itself; of one that is not installed, nothing."""
    from packaging.requirements import Requirement

    for line in (requires(distribution) or ()) if version_of(distribution) else ():
        wanted = Requirement(line)
        of_extra = wanted.marker is not None and "extra" in str(wanted.marker)
        if of_extra != bool(extra) or (wanted.marker is not None and not wanted.marker.evaluate({"extra": extra})):
            continue
        if wanted.name == distribution:
            for other in sorted(wanted.extras):
                yield from packages(distribution, other)
            continue
        found = version_of(wanted.name)
        suits = bool(found) and wanted.specifier.contains(found, prereleases=True)
        yield Package(wanted.name, str(wanted.specifier), found, suits)
