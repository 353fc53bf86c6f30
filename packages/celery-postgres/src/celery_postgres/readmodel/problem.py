"""What needs a person: one sentence each, which says what, how bad and since when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How urgent it is; the more urgent first."""

    CRITICAL = 0
    WARNING = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that needs attention.

    Attributes:
        rule: which rule found it: a key of `thresholds.RULES`.
        severity: how urgent it is.
        sentence: what is wrong, in one sentence. It may contain the name of a queue or a task, which is hostile text.
        detail: why, or what may be done; may be empty.
        age_s: for how long, as far as is known.
        view: where to look: `queue`, `dead`, `failed`, `running`, `worker`, `schedule` or `limit`.
        subject: the queue, the task, the worker's id or the entry; empty for several.
    """

    rule: str
    severity: Severity
    sentence: str
    detail: str = ""
    age_s: float | None = None
    view: str = "queue"
    subject: str = ""
