"""The two folders of one checkout: the source tree, and the state that ``./dev`` keeps for it.

The installed program has no source tree. Outside a checkout its state belongs to the account instead.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from environment.account import server_account
from environment.errors import UserError
from environment.installation import SYSTEM_FOLDER
from environment.sources import CHECKOUT


def project(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder whose state is used, and whose ``.env`` if it ``is_checkout``: this source tree, unless
    ``SKELDIR_PROJECT`` is set.

    Programs that Nix installed run from a store that is read-only. They set the variable to the folder in which they
    were started, and use the checkout around it, if there is one.
    """
    named = environ.get("SKELDIR_PROJECT")
    if not named:
        return CHECKOUT
    start = Path(named).absolute()
    return next(filter(is_checkout, (start, *start.parents)), start)


def is_checkout(folder: Path) -> bool:
    """Whether it is the root of a checkout of this project."""
    return (folder / "environment" / "cli.py").exists()


def owner() -> str:
    """Whose state it is, for messages."""
    return "this checkout" if is_checkout(project()) else "this account"


def account_state(environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder of the account, by the XDG Base Directory Specification: ``$XDG_STATE_HOME/skeldir``, by
    default ``~/.local/state/skeldir``.  A relative path in the variable is ignored, as the specification demands.

    Raises:
        UserError: the account has no home folder.
    """
    named = Path(environ.get("XDG_STATE_HOME") or ".")
    home = Path(os.path.expanduser("~"))
    if not named.is_absolute() and not home.is_absolute():
        raise UserError("this account has no home folder: set SKELDIR_STATE_DIR to a folder that you can write to")
    return (named if named.is_absolute() else home / ".local" / "state") / "skeldir"


def locate_state(checkout: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the state of a checkout (``project()``) is; nothing is created.

    It is ``SKELDIR_STATE_DIR`` if set, otherwise ``.skeldir`` in the checkout, and outside a checkout
    ``account_state()``. For root, PostgreSQL runs as another account. If that account cannot enter the folder (below a
    home of mode 0700), the state is in ``/var/lib/skeldir/<hash of the folder>``. ``./dev status`` prints it.
    """
    checkout = checkout or project(environ)
    named = environ.get("SKELDIR_STATE_DIR")
    if named:
        return Path(named).expanduser().absolute()
    inside = is_checkout(checkout)
    place = checkout if inside else account_state(environ)
    if os.geteuid() == 0 and not server_account().can_enter(_existing(place)):
        key = hashlib.sha256(str(place).encode()).hexdigest()[:12]
        return SYSTEM_FOLDER / f"{place.name}-{key}"
    return place / ".skeldir" if inside else place


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def make_state(checkout: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder, created if absent.

    Raises:
        UserError: it cannot be written, or PostgreSQL's account cannot enter it.
    """
    state = locate_state(checkout, environ)
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write the state folder {state}: {error.strerror}; "
            "set SKELDIR_STATE_DIR to a folder that you can write to"
        ) from error
    account = server_account()
    if not account.can_enter(state):
        raise UserError(
            f"the user {account.name}, who runs PostgreSQL for root, cannot enter {state}; "
            "set SKELDIR_STATE_DIR to a folder that it can"
        )
    return state
