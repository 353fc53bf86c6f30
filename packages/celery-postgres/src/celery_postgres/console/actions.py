"""What an action is: who may do it, what it would do, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from celery_postgres.console.access import Role
from celery_postgres.console.looking import Look
from celery_postgres.operations import Operations

#: Above it, the number has to be typed.
TYPED = 1_000
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
    """What was done, and what was not."""

    text: str
    back: str


@dataclass(frozen=True, slots=True)
class Action:
    """An action: who may do it, what it would do, and what it does, given the time of the plan."""

    roles: frozenset[Role]
    plan: Callable[[Look, datetime], Plan]
    act: Callable[[Look, Operations, datetime], Done]
