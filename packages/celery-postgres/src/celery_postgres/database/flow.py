"""The parts of a claim from a fair queue, as the store and the consumer pass them on. A key is known by its hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ReadyKey:
    """A key that has ready messages of a priority.

    Attributes:
        first_id: the lowest id of these messages.
        weight: how many messages it may give in a turn, for each one of a key of weight 1.
        in_order: its messages are to run one after another.
    """

    key: int
    priority: int
    first_id: int
    weight: int = 1
    in_order: bool = False


class Turn(NamedTuple):
    """What a key may give to a claim. A tuple: a claim makes 64 of them.

    Attributes:
        lowest_id: where the scan begins.
        share: how many messages at most.
        in_order: it may give its oldest message, if none of it runs.
        since: what runs of it was claimed from this time of the database on, in seconds since 1970.
    """

    key: int
    priority: int
    lowest_id: int
    share: int
    in_order: bool = False
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Turns:
    """The keys of a fair queue that a claim is to ask, in their order.

    Attributes:
        failed: whether a message that has failed before may come instead, and alone.
        clock: the earliest that the database's clock can show, unless it was set back. If it shows less, `Turn.since`
            does not count.
    """

    queue: int
    turns: Sequence[Turn] = ()
    failed: bool = True
    clock: float = 0.0


@dataclass(frozen=True, slots=True)
class Closed:
    """What the limits of a key have allowed, which was less than its share.

    Attributes:
        opens_in_s: the seconds until they allow more; None if an acknowledgement decides that.
    """

    places: int
    opens_in_s: float | None
