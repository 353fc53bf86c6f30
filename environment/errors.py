"""Failures that the person at the terminal can do something about."""


class UserError(Exception):
    """An expected failure.  Its text is one line that says what is wrong and what to do; never a password.

    ``./dev`` prints it as ``dev: <text>`` and exits with 1.  Everything else is a bug and keeps its traceback.
    """
