"""Rules for the fields of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_postgres.database.dead_letter import DeadLetterKind, DeadLetterReason, FlawedMessageError

#: Whether a value fits, and the words for a value that fits.
Rule = tuple[Callable[[Any], bool], str]

#: Larger numbers overflow where Celery adds them to a clock.
_LONGEST_S = 10.0**10


class FlawError(FlawedMessageError):
    """A message has a form that its consumer does not know. The text says what is wrong, and quotes nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(DeadLetterReason(DeadLetterKind.MALFORMED, what))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LONGEST_S < value < _LONGEST_S


def is_count(limit: int) -> Callable[[Any], bool]:
    # Nearly every value is a plain int, for which one comparison of types is enough.
    return lambda value: (
        (type(value) is int or (isinstance(value, int) and not isinstance(value, bool))) and 0 <= value <= limit
    )


def is_moment(value: Any) -> bool:
    return is_number(value) and value >= 0


def is_pair(value: Any) -> bool:
    if value == [None, None]:  # of nearly every task
        return True
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(one is None or is_number(one) for one in value)


def are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_printable(value: Any) -> bool:
    """Whether logs and terminals can show it: a line break begins a line, half a surrogate pair is an error."""
    return isinstance(value, str) and value.isprintable()


def is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


is_text, is_mapping, is_list = is_a(str), is_a(dict), is_a(list, tuple)


def check_fields(values: dict[str, Any], rules: dict[str, Rule], where: str) -> None:
    """Check that each field that has a rule is absent, None, or what the rule demands.

    Raises:
        FlawError: one is not.
    """
    for name, (fits, wanted) in rules.items():
        value = values.get(name)
        if value is not None and not fits(value):
            raise FlawError(f"{where} {name} is not {wanted}")
