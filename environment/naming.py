"""What the program is called: ``./dev`` in a checkout, and by its own name where it is installed.

Standard library only, for the bootstrap.
"""

import os
import sys

#: Set by the installed program (``nix/program.nix``) to its name; ``dev`` removes it.
VARIABLE = "SKELDIR_PROGRAM"


def program() -> str:
    """What a person types before a command."""
    return os.environ.get(VARIABLE) or "./dev"


def is_installed() -> bool:
    """Whether this is the installed program: there are no sources to test, lint or build."""
    return bool(os.environ.get(VARIABLE))


def label() -> str:
    """What each of its lines on standard error begins with."""
    return os.path.basename(program())


def say(text: str) -> None:
    """Tell the person at the terminal something."""
    print(f"{label()}: {text}", file=sys.stderr, flush=True)
