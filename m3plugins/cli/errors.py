"""Errors that end a command, with their exit codes."""


class CallError(ValueError):
    """A call that cannot be carried out as it was made: exit code 2. The message says why and what to call instead."""

    exit_code = 2


class Interrupted(Exception):
    """Ctrl-C: exit code 1. The message says how to go on."""

    exit_code = 1
