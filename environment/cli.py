"""The commands of ``./dev``, and of the same program where it is installed."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from environment.commands import COMMANDS
from environment.errors import UserError
from environment.naming import is_installed, program, say

_SETTINGS = {
    "DATABASE_URL": "use this PostgreSQL; otherwise a private one is started",
    "CELERY_METRICS_PORT": "the worker's HTTP port (9540, or a free one if that is taken)",
    "SKELDIR_STATE_DIR": "where the private PostgreSQL is kept (.skeldir in the checkout)",
    "SKELDIR_POSTGRES_BIN": "the folder with initdb, pg_ctl and postgres to use",
    "SKELDIR_PYTHON": "a Python that has all packages: no .venv (nix develop sets it)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 1 after one line for an expected failure, 2 for a bad command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (words[0], words[1:]) if words else ("help", [])
    if name in ("-h", "--help"):
        name = "help"
    command = COMMANDS.get(name)
    if command is None:
        say(f"no command {name!r}; {program()} help shows them")
        return 2
    if command.for_sources and is_installed():
        say(f"{name} works on the sources of this project: ./dev {name} in a checkout")
        return 2
    if rest[:1] in (["-h"], ["--help"]):
        print(f"usage: {program()} {name} {command.arguments}".rstrip() + f"\n{command.summary}")
        return 0
    module, function = command.function.split(":")
    # TERM and a closed terminal end a command as an exception does: it stops what it has started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        status: int = getattr(importlib.import_module(f"environment.{module}"), function)(rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output (head) is gone. Python must not fail when it flushes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, TimeoutError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def show_help(arguments: Sequence[str]) -> int:
    """``./dev help``."""
    print(f"Usage: {program()} COMMAND [arguments]\n")
    commands = {name: command for name, command in COMMANDS.items() if not (command.for_sources and is_installed())}
    width = max(len(f"{name} {command.arguments}") for name, command in commands.items())
    for name, command in commands.items():
        print(f"  {f'{name} {command.arguments}':{width}}  {command.summary}")
    settings = dict(_SETTINGS)
    if is_installed():
        settings["SKELDIR_STATE_DIR"] = "where the private PostgreSQL is kept (~/.local/state/skeldir)"
        del settings["SKELDIR_PYTHON"]
    print("\nEnvironment:\n")
    for name, meaning in settings.items():
        print(f"  {name:25}  {meaning}")
    return 0


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
