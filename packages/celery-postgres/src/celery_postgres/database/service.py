"""A thread that works over a connection of its own for as long as its process needs it."""

from __future__ import annotations

import threading
import time

from celery_postgres.database.backoff import Backoff
from celery_postgres.database.wake import Wake


class Service:
    """Connects, works turn by turn, and after an error pauses, longer each time, and connects again.

    Derive from it and define `connected`, `connect`, `turn`, `disconnect` and `log_failure`. The thread survives every
    error: what depends on it would wait forever.

    Attributes:
        wake: ends a wait of the thread; waits are `self.wake.wait(seconds, descriptor)`.
        retry: the pauses between attempts.
    """

    #: How long `stop` waits for the thread.
    STOP_S = 5.0

    def __init__(self, name: str) -> None:
        self._name = f"celery_postgres {name}"
        self.wake = Wake()
        self.retry = Backoff()
        self.stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs. For one thread."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread. Returns when it has ended, or after `STOP_S`."""
        self.stopping = True
        self.wake.set()
        if self._thread is not None:
            self._thread.join(self.STOP_S)

    # -- for the service itself, in its thread

    @property
    def connected(self) -> bool:
        raise NotImplementedError

    def connect(self) -> None:
        """Called before a turn if the service is not `connected`."""
        raise NotImplementedError

    def turn(self) -> None:
        """Work and wait, for seconds at most; called again at once."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Close the connection, if there is one. Must not raise."""
        raise NotImplementedError

    def log_failure(self, error: Exception, pause: float, *, first: bool) -> None:
        """Report that `connect` or `turn` has raised.

        Args:
            pause: the seconds until the next attempt.
            first: whether the attempt before this one succeeded.
        """
        raise NotImplementedError

    def pause_after(self, error: Exception) -> float:
        """The seconds to pause after an error."""
        return self.retry.failed()

    def is_needed(self) -> bool:
        """Whether the thread goes on; asked after each turn, and during each pause."""
        return True

    def finish(self) -> None:
        """Called at the end of the thread, connected or not."""
        self.disconnect()

    def _run(self) -> None:
        while not self.stopping and self.is_needed():
            try:
                if not self.connected:
                    self.connect()
                self.turn()
                self.retry.succeeded()
            except Exception as error:  # of any kind: see above
                if self.stopping:
                    break
                first = not self.retry.failing
                pause = self.pause_after(error)
                self.log_failure(error, pause, first=first)
                self.disconnect()
                self._rest(pause)
        self.finish()

    def _rest(self, seconds: float) -> None:
        """Pause. A `wake` does not end it: nothing that is reported by one brings a database back."""
        until = time.monotonic() + seconds
        while not self.stopping and self.is_needed() and (left := until - time.monotonic()) > 0:
            self.wake.wait(left)
            self.wake.clear()
