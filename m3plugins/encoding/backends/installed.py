"""What running a model in this process needs beside the core: the extra `[torch]`."""

from importlib.util import find_spec

TORCH = 'pip install "m3plugins[torch]"'
"""What installs it."""


def lacking_torch() -> str:
    """The packages that are not installed, of torch and transformers, for people to read; "" if both are.

    They are looked for, not imported.
    """
    return " and ".join(name for name in ("torch", "transformers") if find_spec(name) is None)


def check_torch(model: str, *, served: bool = True) -> None:
    """Refuses to run a model here without torch and transformers.

    Args:
        model: Its name, for the message.
        served: Whether a service can run it instead.

    Raises:
        ImportError: If one of them is not installed.
    """
    if lacking := lacking_torch():
        elsewhere = ', or give the URL of a service that runs it ("http://…")' if served else ""
        msg = f"{model} needs {lacking} to run here: {TORCH}{elsewhere}"
        raise ImportError(msg)
