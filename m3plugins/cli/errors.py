"""The error of a wrong call."""


class CallError(ValueError):
    """What was asked cannot be done as asked: exit code 2. The message says why and what to ask instead."""

    exit_code = 2
