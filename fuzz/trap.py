"""Detects what reading must not do: import, compile, execute, open a file, start a process, connect."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FORBIDDEN = ("import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pickle.")
_armed = threading.local()


def _hook(event: str, _arguments: tuple[Any, ...]) -> None:
    caught: list[str] | None = getattr(_armed, "caught", None)
    if caught is not None and event.startswith(_FORBIDDEN):
        caught.append(event)


sys.addaudithook(_hook)


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Fails if this thread does any of that in the block.

    The audit hook records and does not raise: a reader that catches every exception would hide it.
    """
    caught: list[str] = []
    _armed.caught = caught
    try:
        yield
    finally:
        _armed.caught = None
    assert not caught, f"reading did {', '.join(sorted(set(caught)))}"
