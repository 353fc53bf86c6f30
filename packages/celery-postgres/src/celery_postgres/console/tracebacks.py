"""Tracebacks as the console shows them: the calls and their source lines, and not what an exception says of values."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FRAME = re.compile(r'^  File "([^"\n]{1,500})", line (\d{1,9})(?:, in (.{1,200}))?$')
#: Where libraries lie, and Celery's and Kombu's own folders wherever they do.
_LIBRARY = re.compile(r"(?:^|[/\\])(?:site-packages|dist-packages|lib[/\\]python[\d.]+|celery|kombu|billiard)[/\\]")
_OUTERMOST = re.compile(r"^.*?(?:site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]")
#: Frames that are shown: the outermost and the innermost.
_FIRST, _LAST = 10, 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a traceback.

    Attributes:
        text: what it says.
        tone: `own` for the project's code, `lib` for that of libraries.
    """

    text: str
    tone: str


def frames(calls: str) -> list[Line]:
    """Calls, each with its source line below.

    Args:
        calls: `Task.calls`, which has nothing else: an exception's message may quote a value.
    """
    found: list[Line] = []
    lines = calls.split("\n")
    for number, line in enumerate(lines):
        frame = _FRAME.fullmatch(line)
        if frame is None:
            continue
        path, at, function = frame.groups()
        tone = "lib" if _LIBRARY.search(path) else "own"
        where = f"{_OUTERMOST.sub('', path)}:{at}" + (f", in {function}" if function else "")
        found.append(Line(where, tone))
        code = lines[number + 1] if number + 1 < len(lines) else ""
        if tone == "own" and code.startswith("    ") and not code.startswith("     "):
            found.append(Line(f"    {code.strip()[:200]}", "code"))
    if len(found) > _FIRST + _LAST:
        left_out = len(found) - _FIRST - _LAST
        found[_FIRST:-_LAST] = [Line(f"… {left_out} lines are left out", "lib")]
    return found


def whole(traceback: str) -> list[Line]:
    """All of it, for those who may see values; at most its last 20,000 characters."""
    return [
        Line(line, "own" if _FRAME.fullmatch(line) and not _LIBRARY.search(line) else "lib")
        for line in traceback[-20_000:].splitlines()
    ]
