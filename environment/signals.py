"""Deferring signals, and passing them on."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from environment.errors import UserError

#: The signals with which a terminal or a supervisor ends a program.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """Remember the signals that would end this process, and deliver them at the end of the block.

    For steps that must not stop halfway, such as a server that has been forked but has no pid file yet. Does nothing
    outside the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    previous = {number: signal.signal(number, lambda got, _frame: pending.append(got)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for got in dict.fromkeys(pending):
            signal.raise_signal(got)


def run_in_foreground(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program that shares our terminal, and return its exit status as a shell counts it.

    A Ctrl-C reaches the program from the terminal itself (psql cancels a query with it), so we ignore INT and QUIT.
    TERM and HUP, which a supervisor sends to us alone, are passed on.

    Raises:
        UserError: there is no such program.
    """
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if child is not None:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A handler that does nothing, unlike SIG_IGN, is not inherited by the program.
    previous |= {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        child = subprocess.Popen(command, env=environ)
        return shell_status(child.wait())
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror}") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def shell_status(returncode: int) -> int:
    """128 + number for a process that a signal ended, otherwise its own exit status."""
    return returncode if returncode >= 0 else 128 - returncode
