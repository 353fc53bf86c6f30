"""The calls in a traceback, without anything that could be an exception's message."""

from __future__ import annotations

import re

#: What a traceback begins with. A message is its producer's text and may look like calls, so nothing counts that comes
#: after the first line that is no call. `error_of_result` and `roles.sql` have the same.
_LEADING = re.compile(
    r"(?:  \+ Exception Group )?Traceback \(most recent call last\):\n"
    r'(?:(?:  \| )?  File "[^"\n]+", line [0-9]+, in [^\n]+\n'
    r"(?:(?:  \| )?    [^\n]*\n)*"
    r"(?:(?:  \| )?  \[Previous line repeated [0-9]+ more times?\]\n)?)*"
)


def leading_calls(traceback: str | None) -> str:
    """The calls at the beginning of a traceback, as lines; empty if it begins otherwise."""
    found = _LEADING.match(traceback or "")
    if found is None:
        return ""
    lines = found[0].split("\n")[1:]
    return "\n".join(line.removeprefix("  | ") for line in lines)
