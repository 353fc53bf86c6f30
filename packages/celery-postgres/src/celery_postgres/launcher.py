"""`python -m celery_postgres run -- PROGRAM …`: a program that makes its own Celery app from a URL, on this package.

Flower, exporters of metrics and `celery -b URL` have no line of yours in which to call `install()`. The launcher calls
it, and then runs the program in this same process: arguments, signals and exit status are the program's own. What the
program forks is included. What it starts anew (`celery multi`) is not: there, put `run` before each program.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from celery_postgres.errors import CeleryPostgresError
from celery_postgres.installation import install

_USAGE = """usage: python -m celery_postgres run [--] PROGRAM [ARGUMENT ...]
       python -m celery_postgres run [--] -m MODULE [ARGUMENT ...]

Use celery_postgres in a program that makes its own Celery app from a URL, such as Flower or an exporter of metrics.
PROGRAM is a Python program of the same environment: its name, the path of a script, or a command that a package adds to
`celery`, such as flower. What it forks is included; what it starts as a new process is not.

Arguments can be read by every account of the machine: give the URL in the variable that the program reads, such as
CELERY_BROKER_URL (Flower, celery), CE_BROKER_URL or BROKER_URL (exporters).
"""
_PYTHON = re.compile(r"python(3(\.\d+)?)?")


class LaunchError(CeleryPostgresError):
    """Why a program cannot be run, in one line."""


def main(words: Sequence[str]) -> int:
    """Run a program in this process, after `install()`.

    Args:
        words: the program and its arguments, with or without a `--` before them.

    Returns:
        The exit status: 0; or 2 after one line on standard error, if there is no such program.

    Raises:
        BaseException: whatever the program raises, `SystemExit` included.
    """
    words = list(words)
    if words[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")  # noqa: T201
        return 0
    try:
        start = _found(words[1:] if words[:1] == ["--"] else words)
    except LaunchError as error:
        print(f"celery_postgres run: {error}", file=sys.stderr)  # noqa: T201
        return 2
    install()
    start()
    return 0


def _found(words: list[str]) -> Callable[[], object]:
    """What runs the program."""
    if words and _PYTHON.fullmatch(os.path.basename(words[0])):
        words = words[1:]
        if not words or (words[0].startswith("-") and words[0] != "-m"):
            raise LaunchError("after python, give a script or -m MODULE, without other options of Python")
        if words[0] != "-m":
            return _script(Path(words[0]), words[1:])
    if words[:1] == ["-m"]:
        return _module(words[1:])
    if not words or words[0].startswith("-"):
        raise LaunchError("which program? write `python -m celery_postgres run -- PROGRAM [ARGUMENT ...]`")
    path = _path(words[0])
    if path is not None:
        return _script(path, words[1:])
    if entry_points(group="celery.commands", name=words[0]):  # Flower has no script of its own
        return _module(["celery", *words])
    raise LaunchError(
        f"there is no program {words[0]!r} in {os.path.dirname(sys.executable)} or on the PATH: install it beside "
        "celery_postgres"
    )


def _path(name: str) -> Path | None:
    """The file of a program: a path, or a name beside this Python, which need not be on the PATH, or on the PATH."""
    if os.sep in name:
        return Path(name)
    beside = os.path.dirname(sys.executable)
    found = shutil.which(name, path=beside) or shutil.which(name)
    return None if found is None else Path(found)


def _script(path: Path, arguments: list[str]) -> Callable[[], object]:
    try:
        with path.open("rb") as file:
            first, second = file.readline(1024), file.readline(1024)
    except OSError as error:
        raise LaunchError(f"{path} cannot be read: {error.strerror}") from None
    interpreter = _interpreter(first, second)
    if interpreter is None and path.suffix != ".py":
        raise LaunchError(f"{path} is not a Python program")
    if interpreter and os.path.isabs(interpreter) and not _is_ours(interpreter):
        raise LaunchError(
            f"{path} belongs to another Python: install celery_postgres there, and use "
            f"`{interpreter} -m celery_postgres run`"
        )

    def start() -> None:
        sys.argv[:] = [str(path), *arguments]
        if not sys.flags.safe_path:
            sys.path[0] = str(path.resolve().parent)  # as Python does for a script; it was this folder
        runpy.run_path(str(path), run_name="__main__")

    return start


def _interpreter(first: bytes, second: bytes) -> str | None:
    """The Python that a script names in its first lines: a path, or a name for `env`; None if it names none.

    Where the path is too long for a first line, pip's scripts begin with `#!/bin/sh` and call it in the second.
    """
    words = os.fsdecode(first[2:] if first.startswith(b"#!") else b"").split()
    if words == ["/bin/sh"] and second.startswith(b"'''exec' "):
        words = os.fsdecode(second).split()[1:2]
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    if not words or not _PYTHON.fullmatch(os.path.basename(words[0].strip('"'))):
        return None
    return words[0].strip('"')


def _is_ours(interpreter: str) -> bool:
    """Whether a Python has the same installed packages: it lies in the same folder as this one."""
    try:
        return os.path.samefile(os.path.dirname(interpreter), os.path.dirname(sys.executable))
    except OSError:
        return False


def _module(words: list[str]) -> Callable[[], object]:
    if not words:
        raise LaunchError("which module? write `python -m celery_postgres run -m MODULE [ARGUMENT ...]`")
    name, arguments = words[0], words[1:]
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise LaunchError(f"there is no module {name!r}: install it beside celery_postgres")

    def start() -> None:
        sys.argv[:] = [name, *arguments]
        runpy.run_module(name, run_name="__main__", alter_sys=True)

    return start
