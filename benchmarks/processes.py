"""Other processes of a run: how they are started, and that they never outlive it."""

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
    """The environment of a child: ours, the source tree on its path, and these."""
    return {**os.environ, "PYTHONPATH": python_path(), **variables}


def package_path(checkout: Path) -> str:
    """``PYTHONPATH`` for a child that has the package of another checkout and this checkout's benchmarks.

    Until b03fd94 the package was one of the application's.
    """
    source = checkout / "packages" / "celery-postgres" / "src"
    return os.pathsep.join([str(source if source.is_dir() else checkout / "backend"), str(CHECKOUT)])


def start(arguments: Sequence[str], variables: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start ``python arguments…``."""
    return spawn([sys.executable, *arguments], variables, **options)


def spawn(command: Sequence[str], variables: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a command that cannot outlive us."""
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


def call(module: str, *arguments: object, variables: Mapping[str, str], timeout_s: float = 300) -> Any:
    """Run ``python -m module arguments…`` and return the JSON on its last line.

    :raises RuntimeError: with the end of what it said, when it fails.
    """
    process = start(["-m", module, *map(str, arguments)], variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return answer(process, timeout_s)


def answer(process: subprocess.Popen[str], timeout_s: float = 300) -> Any:
    """Wait for a process of ``start`` whose output is piped; return the JSON on its last line."""
    try:
        said, complained = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{(complained or said)[-2000:]}")
    return json.loads(said.strip().splitlines()[-1])


def end(process: subprocess.Popen[Any], patience_s: float) -> None:
    """TERM, and KILL for what has not ended by then."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    process.kill()
    process.wait()


def dies_with_us() -> Callable[[], None] | None:
    """For preexec_fn: have Linux kill the child when this process is gone."""
    if sys.platform != "linux":
        return None
    prctl, number = ctypes.CDLL(None).prctl, int(signal.SIGKILL)
    return lambda: prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
