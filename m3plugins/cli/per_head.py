"""Options that take one number for all heads, or one by name for each."""

from __future__ import annotations

from collections.abc import Collection

from m3plugins.cli.errors import CallError


def per_head(option: str, text: str, names: Collection[str]) -> float | dict[str, float]:
    """The number that an option gives, or the numbers by name.

    Args:
        option: Its name, for the error.
        text: "0.02", or "sparse=0.05,dense=0.02".
        names: What may be named.

    Example:
        >>> per_head("--temperature", "dense=0.02,sparse=0.05", ("dense", "sparse"))
        {'dense': 0.02, 'sparse': 0.05}

    Raises:
        CallError: It is neither.
    """
    parts = [part.partition("=") for part in text.split(",")]
    try:
        if "=" not in text:
            return float(text)
        found = {name.strip(): float(value) for name, _, value in parts}
        if found.keys() <= set(names) and len(found) == len(parts):
            return found
    except ValueError:
        pass
    example = ",".join(f"{name}=0.02" for name in list(names)[:2])
    msg = f"{option} must be a number, or numbers by name of {', '.join(names)}, as in {example}, got {text!r}"
    raise CallError(msg)
