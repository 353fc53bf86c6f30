"""What is remembered of a traceback: it begins with the calls, as the exception's own frames have them.

Those who may not see values are shown what a traceback begins with, up to the first line that is no call. The text that
Celery makes begins with the calls of the error's first cause, and a long message pushes them out of what is kept.
"""

from __future__ import annotations

import traceback
from types import TracebackType

from celery_postgres.results.columns import text

#: Characters that are kept of a traceback, and of its calls.
_LONGEST, _LONGEST_CALLS = 4_000, 2_500
#: Frames that are read of each error, the innermost, and errors that are followed from one to its cause.
_MOST_FRAMES, _MOST_ERRORS = 30, 5
_BEGIN = "Traceback (most recent call last):\n"


def kept_traceback(error: object, whole: str) -> str:
    """The calls that led to an error and to its causes, the first cause first, and then the end of the text.

    Args:
        error: the exception, or a reason.
        whole: the traceback as Celery has it.
    """
    chain = _chain(error) if isinstance(error, BaseException) else []
    if len(whole) <= _LONGEST and len(chain) <= 1:
        return whole
    calls = [call for one in chain for call in _calls(one.__traceback__)]
    while sum(map(len, calls)) > _LONGEST_CALLS:
        del calls[0]
    # The mark keeps the end of a message from being taken for the beginning of a traceback.
    begin = (_BEGIN if calls else "") + "".join(calls) + "[...]\n"
    return begin + whole[-(_LONGEST - len(begin)) :]


def _chain(error: BaseException) -> list[BaseException]:
    """An error after its causes; the errors of a group stand before it, too."""
    found: list[BaseException] = []
    left = [error]
    while left and len(found) < _MOST_ERRORS:
        one = left.pop(0)
        if any(one is known for known in found):
            continue
        found.append(one)
        cause = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        left += [] if cause is None else [cause]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return found[::-1]


def _calls(frames: TracebackType | None) -> list[str]:
    found = traceback.StackSummary.extract(traceback.walk_tb(frames), limit=-_MOST_FRAMES)
    return [text(call) for call in found.format()]
