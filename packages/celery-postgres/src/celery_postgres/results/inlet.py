"""The main process' side of the result pipe: where its batch writer finds what prefork children have finished."""

from __future__ import annotations

from collections.abc import Callable

from celery_postgres.consumer.claims import Claims
from celery_postgres.database.wake import Wake
from celery_postgres.results.result_pipe import ResultPipe
from celery_postgres.results.write import Write


class Inlet:
    """Waits for records and for calls of `wake`, and reads the records."""

    def __init__(self, pipe: ResultPipe, claims: Callable[[], Claims | None]) -> None:
        """
        Args:
            claims: the claims of this process, which change when it reconnects.
        """
        self._pipe = pipe
        self._claims = claims
        self._wake = Wake()

    def wake(self) -> None:
        """End the wait of the writer's thread."""
        self._wake.set()

    def wait(self, seconds: float, *, for_records: bool = True) -> None:
        """Wait for `wake`, and for a record of a child."""
        self._wake.wait(seconds, *([self._pipe.fileno()] if for_records else ()))
        self._wake.clear()

    def read(self) -> list[Write]:
        """What children have finished. The claims of these writes are carried; a claim that this process has lost is
        left out, as the message then runs elsewhere."""
        writes = self._pipe.read()
        if writes:
            claims = self._claims()
            for write in writes:
                if write.claim is not None and (claims is None or not claims.carry(write.claim)):
                    write.claim = None
        return writes

    def accept(self, accepting: bool) -> None:
        """Tell the children whether to pass on more."""
        self._pipe.accept(accepting)

    def confirm(self, writes: list[Write]) -> None:
        """Tell the children that these are stored."""
        self._pipe.confirm(writes)
