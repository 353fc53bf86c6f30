"""What the broker tells whoever wants to measure it."""

from __future__ import annotations


class Observer:
    """Derive from it, and `observe(YourObserver())` before the worker starts.

    Its methods are called by the thread that does the work, and must be quick.
    """

    def claimed(self, seconds: float, messages: int) -> None:
        """A claim took so long, its round trip included, and brought so many messages that are to be acknowledged.
        Not told of claims that brought events and remote control alone, which need no acknowledgement."""

    def claim_failed(self) -> None:
        """The database refused a claim of tasks, or did not answer; it is tried again within 2 s."""

    def lease_expired(self, messages: int) -> None:
        """This process has found another one dead, and gave back so many of its messages."""

    def maintained(self, step: str, well: bool) -> None:
        """This process has done a step of the maintenance, or tried in vain: each is done every 10 s or so, and
        `rescue of dead consumers` and `removal of orphaned messages` when it is their time."""


_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Call `observer` from now on, in this process and in those that it forks. Twice is once."""
    if observer not in _observers:
        _observers.append(observer)


def claimed(seconds: float, messages: int) -> None:
    for observer in _observers:
        observer.claimed(seconds, messages)


def claim_failed() -> None:
    for observer in _observers:
        observer.claim_failed()


def lease_expired(messages: int) -> None:
    for observer in _observers:
        observer.lease_expired(messages)


def maintained(step: str, *, well: bool) -> None:
    for observer in _observers:
        observer.maintained(step, well)
