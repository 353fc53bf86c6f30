"""Changing limits and fair queues by hand: what is checked, and what belongs into one transaction."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeGuard

from celery_postgres.database.keys import checked_key, checked_own_key, text_or_none
from celery_postgres.database.limit_store import KeyCounts, Limit, LimitStore
from celery_postgres.database.session import Session
from celery_postgres.database.store import Runner
from celery_postgres.errors import FlowError

#: The bounds of the columns.
MOST_RUNNING, MOST_PER_SECOND, LEAST_PER_SECOND, MOST_BURST, MOST_WEIGHT = 2**31 - 1, 1e6, 1e-5, 1_000_000, 100


@dataclass(frozen=True, slots=True)
class NewLimit:
    """What is to be set; None leaves it as it is.

    Attributes:
        concurrency: how many may run at once. 0 pauses.
        per_second: how many may start in a second, or, with `refuse`, be published.
        burst: how many may do so at once after a pause; 1 if a rate is given without it.
        refuse: what is too much is refused at publish.
        weight: how many turns a key has for each one of a key of weight 1.
    """

    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None
    refuse: bool | None = None
    weight: int | None = None

    def check(self, key: str | None) -> None:
        """
        Raises:
            FlowError: a value is out of its bounds, or there is none.
        """
        if self == NewLimit():
            raise FlowError("which limit? give a concurrency, a rate or a weight")
        _within("concurrency", self.concurrency, 0, MOST_RUNNING)
        _within("burst", self.burst, 1, MOST_BURST)
        _within("weight", self.weight, 1, MOST_WEIGHT)
        if self.per_second is not None:
            check_rate(self.per_second)
        if self.refuse is not None and not isinstance(self.refuse, bool):
            raise FlowError(f"refuse is True or False, and not {_shown(self.refuse)}")
        if self.per_second is None and (self.burst is not None or self.refuse):
            raise FlowError("a burst and a refusal belong to a rate: give that too")
        if key is None and self.weight is not None:
            raise FlowError("a weight belongs to a key: give that too")


def check_rate(rate: object, seconds: int = 1) -> None:
    """Check a rate per `seconds`, 1 or 60: the error has the unit in which it was given.

    Raises:
        FlowError: it is no number, or out of its bounds.
    """
    least, most = LEAST_PER_SECOND * seconds, MOST_PER_SECOND * seconds
    if not _is_number(rate) or not (rate == 0 or least <= rate <= most):
        unit = "second" if seconds == 1 else "minute"
        raise FlowError(f"a rate is 0, or {least:.5f} to {most:.0f} per {unit}, and not {_shown(rate)}")


def set_limit(session: Session, queue: str, key: str | None, new: NewLimit) -> Limit:
    """Set limits of a key, of each key (`*`) or, without one, of the whole queue. They hold from the next claim on.

    Raises:
        FlowError: the queue does not exist or is not fair, the key is none, or a value is out of its bounds.
    """
    _check_key(key)
    new.check(key)
    store = LimitStore(session)
    with session.transaction():
        queue_id = _fair_queue(store, queue)
        store.set(
            queue_id,
            key,
            concurrency=new.concurrency,
            per_second=new.per_second,
            burst=new.burst,
            refuse=new.refuse if new.per_second is None else bool(new.refuse),
            weight=new.weight,
        )
        (limit,) = store.limits(queue, key=key or "", cap=1)
    return limit


def remove_limit(session: Session, queue: str, key: str | None) -> bool:
    """Remove the limits of a key, of each key (`*`) or of the whole queue. Returns whether there were any.

    Raises:
        FlowError: the queue does not exist, or the key is none.
    """
    _check_key(key)
    store = LimitStore(session)
    with session.transaction():
        return store.remove(_queue(store, queue)[0], key)


def is_fair(session: Session, queue: str) -> bool:
    """
    Raises:
        FlowError: the queue does not exist.
    """
    with session.transaction():
        return _queue(LimitStore(session), queue)[1]


def set_fair(session: Session, queue: str, *, fair: bool) -> int:
    """Make a queue fair or not, and convert its messages, in batches. Returns how many.

    It may be killed and run again.

    Raises:
        FlowError: the queue does not exist; or it has limits, or messages in order, which fair queues alone keep.
    """
    store = LimitStore(session)
    with session.transaction():
        queue_id, _ = _queue(store, queue)
        if not fair and store.limits(queue, cap=1):
            raise FlowError(f"the queue {queue!r} has limits, which hold in fair queues alone: remove them first")
        if not fair and store.any_in_order(queue_id):
            raise FlowError(
                f"the queue {queue!r} has ordered messages that wait or run, and fair queues alone keep their order: "
                "end what publishes them, let the workers run them or purge them, and run this again"
            )
        store.set_fair(queue_id, fair=fair)
    return store.give_keys(queue_id) if fair else store.take_keys(queue_id)


def limits(session: Runner, queue: str | None, *, key: str | None, cap: int | None) -> list[Limit]:
    """All limits, or those of a queue or of a key.

    Raises:
        FlowError: the key is none, or the name is that of no queue.
    """
    if queue is not None and text_or_none(queue) is None:
        raise _no_queue(queue)
    if key is not None:
        checked_key(key)
    return LimitStore(session).limits(queue, key=key, cap=cap)


def counts_of_key(session: Session, queue: str, key: str) -> KeyCounts:
    """The messages of a key by state.

    Raises:
        FlowError: the queue does not exist or is not fair, or the key is none.
    """
    return LimitStore(session).counts(_fair_queue_now(session, queue, key), key)


def purge_key(session: Session, queue: str, key: str) -> int:
    """Delete the waiting messages of a key, scheduled ones included. Claimed messages stay. Returns how many.

    Raises:
        FlowError: as above.
    """
    return LimitStore(session).purge(_fair_queue_now(session, queue, key), key)


def drain_key(session: Session, queue: str, key: str, timeout_s: float) -> int:
    """Pause a key, with a concurrency of 0, and wait until no message of it runs. Its waiting messages stay.

    Returns:
        How many still run when the time is over.

    Raises:
        FlowError: as above.
    """
    if not _is_number(timeout_s) or not timeout_s >= 0:
        raise FlowError(f"the time to wait is 0 seconds or more, and not {_shown(timeout_s)}")
    deadline = time.monotonic() + timeout_s
    queue_id = _fair_queue_now(session, queue, key)
    set_limit(session, queue, key, NewLimit(concurrency=0))
    store = LimitStore(session)
    while (running := store.counts(queue_id, key).running) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running


def _fair_queue_now(session: Session, queue: str, key: str) -> int:
    checked_own_key(key)
    with session.transaction():
        return _fair_queue(LimitStore(session), queue)


def _queue(store: LimitStore, queue: str) -> tuple[int, bool]:
    found = None if text_or_none(queue) is None else store.lock_queue(queue)
    if found is None:
        raise _no_queue(queue)
    return found


def _no_queue(queue: object) -> FlowError:
    return FlowError(f"there is no queue {queue!a}")


def _fair_queue(store: LimitStore, queue: str) -> int:
    queue_id, fair = _queue(store, queue)
    if not fair:
        raise FlowError(
            f"the queue {queue!r} is not fair, and has no keys: run `python -m celery_postgres fair QUEUE on` first, "
            'or declare it with queue_arguments={"x-fair": True}'
        )
    return queue_id


def _check_key(key: str | None) -> None:
    if key is None:
        return
    if key == "":
        raise FlowError("the empty key is that of messages without one: `*` limits them with all others")
    checked_key(key)


def _within(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not (type(value) is int and least <= value <= most):
        raise FlowError(f"a {name} is {least} to {most}, and not {_shown(value)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A number that is refused, or the name of another type."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return repr(value) if isinstance(value, bool) else f"a {type(value).__name__}"
    return f"{value:g}" if isinstance(value, float) or abs(value) < 10**15 else f"a number of {value.bit_length()} bits"
