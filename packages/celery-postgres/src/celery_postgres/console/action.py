"""What an action is: who may do it, what it would do, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_postgres.console.access import Role, Viewer
from celery_postgres.console.looking import Look
from celery_postgres.operations import Operations

#: Above it, the number has to be typed.
TYPED = 1_000
#: Within how long consumers follow.
SOON = "within 1.3 s"
OPERATORS = frozenset({Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action would do.

    Attributes:
        title: the question.
        says: each consequence with its number, which may be empty.
        verb: on the button.
        back: the address of the view that it began in.
        danger: whether something is gone afterwards.
        number: how many things it changes.
        refused: why it cannot be done; empty if it can.
    """

    title: str
    says: tuple[tuple[str, str], ...]
    verb: str
    back: str
    danger: bool = False
    number: int = 1
    refused: str = ""

    @property
    def typed(self) -> bool:
        """Whether the number has to be typed."""
        return self.number > TYPED


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, and what was not.

    Attributes:
        text: in a sentence.
        back: the address of a view that shows it.
        count: how many things were changed.
        after: where to go on; empty at the end.
        shown: what was asked to be shown.
    """

    text: str
    back: str
    count: int = 1
    after: str = ""
    shown: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What an action is given: the time of its plan, which leaves later arrivals alone, and where to go on."""

    at: datetime
    after: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """An action.

    Attributes:
        roles: who may do it.
        about: the field that names what it changes, for the record.
        plan: what it would do, given a time.
        act: does it, or a part of it.
        allowed: a further condition on the viewer.
        whole: of a part that was done, what to say at the end, given how much was done in all and how much was planned.
    """

    roles: frozenset[Role]
    about: str
    plan: Callable[[Look, datetime], Plan]
    act: Callable[[Look, Operations, Step], Done]
    allowed: Callable[[Viewer], bool] = lambda viewer: True
    whole: Callable[[int, int], str] | None = None
