"""The `m3` command; needs `pip install "m3plugins[cli]"`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with 0 (done), 1 (the work failed or was interrupted) or 2 (the call was wrong).

    Args:
        arguments: The words after `m3`; None takes them from the command line.
    """
    try:
        from m3plugins.cli.app import run
    except ModuleNotFoundError as err:
        if err.name not in ("rich", "typer"):
            raise
        msg = 'm3: the command needs typer and rich; pip install "m3plugins[cli]"'
        raise SystemExit(msg) from err
    except KeyboardInterrupt:
        raise SystemExit(1) from None
    raise SystemExit(run(arguments))
