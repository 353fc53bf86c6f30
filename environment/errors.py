"""Failures that the person at the terminal can correct."""


class UserError(Exception):
    """An expected failure. Its text is one line with the fault and the remedy; never a password.

    ``./dev`` prints it as ``dev: <text>`` and exits with 1. Every other exception is a bug and keeps its traceback.
    """
