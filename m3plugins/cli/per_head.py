"""Options that take numbers by name, such as `dense=1,sparse=0.3`."""

from __future__ import annotations

from collections.abc import Collection

from m3plugins.cli.errors import CallError


def per_head(option: str, text: str, names: Collection[str]) -> float | dict[str, float]:
    """Reads the number that an option gives, or the numbers by name.

    Args:
        option: Name of the option, for the error.
        text: "0.02", or "sparse=0.05,dense=0.02".
        names: The names that are allowed.

    Example:
        >>> per_head("--temperature", "dense=0.02,sparse=0.05", ("dense", "sparse"))
        {'dense': 0.02, 'sparse': 0.05}

    Raises:
        CallError: It is neither.
    """
    try:
        return named_numbers(text, names) if "=" in text else float(text)
    except ValueError as err:
        example = ",".join(f"{name}=0.02" for name in list(names)[:2])
        msg = f"{option} must be a number, or numbers by name of {', '.join(names)}, as in {example}, got {text!r}"
        raise CallError(msg) from err


def named_numbers(text: str, names: Collection[str]) -> dict[str, float]:
    """Parses the numbers of `a=1,b=2`, by name.

    Raises:
        ValueError: If a name is none of `names` or comes twice, or has no number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = map(str.strip, part.partition("="))
        if name not in names:
            msg = f"{name!r} is none of {', '.join(names)}"
            raise ValueError(msg)
        if name in found:
            msg = f"{name!r} may be named only once"
            raise ValueError(msg)
        try:
            found[name] = float(value)
        except ValueError as err:
            msg = f"{name!r} needs a number, got {value!r}"
            raise ValueError(msg) from err
    return found
