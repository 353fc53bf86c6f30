"""What the package reports to programs that measure it."""

from __future__ import annotations


class Observer:
    """Derive from this class, and call `observe(YourObserver())` before the worker starts.

    The thread that does the work calls the methods, so they must be quick.
    """

    def claimed(self, seconds: float, messages: int) -> None:
        """A claim has succeeded.

        Claims that bring only events and remote control, which need no acknowledgement, are not reported.

        Args:
            seconds: how long it took, with its round trip.
            messages: how many messages it brought that are to be acknowledged.
        """

    def claim_failed(self) -> None:
        """The database refused a claim of tasks, or did not answer. The claim is tried again within 2 s."""

    def lease_expired(self, messages: int) -> None:
        """This process has found another one dead, and has released its messages.

        Args:
            messages: how many.
        """

    def maintained(self, step: str, well: bool) -> None:
        """This process has tried a step of the maintenance, which it does about every 10 s.

        Args:
            step: `removal of expired queues`, `removal of expired messages`, `rescue of dead consumers`, or
                `removal of orphaned messages`, which is done once an hour.
            well: whether it succeeded.
        """


_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Call `observer` from now on, in this process and in its forks. Adding an observer twice adds it once."""
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
