"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from environment.sources import CHECKOUT, python_path


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: this process', with this checkout on Python's path, and ``variables`` over both."""
    return {**os.environ, "PYTHONPATH": python_path(), **variables}


def package_path(checkout: Path) -> str:
    """``PYTHONPATH`` for a child that imports the package of another checkout, and all else from this one.

    Until b03fd94 the package lay in the application's folder.
    """
    source = checkout / "packages" / "celery-postgres" / "src"
    return os.pathsep.join([str(source if source.is_dir() else checkout / "backend"), str(CHECKOUT)])


def spawn(command: Sequence[str], variables: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a session of its own; Linux kills it when this process dies."""
    return subprocess.Popen(
        command,
        env=environment(variables),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=dies_with_us(),
        **options,
    )


def serve(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a server that says nothing; Linux kills it when this process dies."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dies_with_us(),
        **{**quiet, **options},
    )


def start(arguments: Sequence[object], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start ``python arguments…`` for ``answer``."""
    words = [sys.executable, *map(str, arguments)]
    return spawn(words, variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def call(module: str, *arguments: object, variables: Mapping[str, str], timeout_s: float = 300) -> Any:
    """Run ``python -m module arguments…`` and return the JSON in the last line of its output.

    Raises:
        RuntimeError: when it fails; the text is the end of its output.
    """
    return answer(start(["-m", module, *arguments], variables), timeout_s)


def answer(process: subprocess.Popen[str], timeout_s: float = 300) -> Any:
    """Wait for a process whose output is piped; return the JSON in the last line of its output.

    Raises:
        RuntimeError: when it fails; the text is the end of its output.
    """
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{(errors or output)[-2000:]}")
    return json.loads(output.strip().splitlines()[-1])


def end(process: subprocess.Popen[Any], patience_s: float) -> None:
    """Send TERM; send KILL if the process still runs after ``patience_s`` seconds."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    process.kill()
    process.wait()


def dies_with_us() -> Callable[[], None]:
    """For ``preexec_fn``: have Linux kill the child when this process dies, and let it obey SIGINT: a shell starts what
    runs in its background with SIGINT ignored, and children inherit that."""
    prctl, number = (ctypes.CDLL(None).prctl if sys.platform == "linux" else None), int(signal.SIGKILL)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prctl is not None:
            prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG

    return prepare
