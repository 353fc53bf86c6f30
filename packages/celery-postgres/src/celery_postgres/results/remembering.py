"""How the result backend remembers attempts that did not succeed, beside what it stores of them."""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import states

from celery_postgres.results import attempts
from celery_postgres.results.persistence import PersistentBackend
from celery_postgres.results.write import Write


class RememberingBackend(PersistentBackend):
    """Collects what a thread stores at the end of an attempt in one write, to which the attempt is added."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._thread = threading.local()

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        with self._collecting() as write:
            super().mark_as_revoked(task_id, reason, request=request, store_result=store_result, state=state)
            self._remember(write, attempts.REVOKED, task_id, reason, None, request)
        self.submit(write)

    def mark_as_retry(
        self,
        task_id: str,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        with self._collecting() as write:
            stored = super().mark_as_retry(
                task_id, exc, traceback=traceback, request=request, store_result=store_result, state=state
            )
            self._remember(write, attempts.RETRIED, task_id, exc, traceback, request)
        self.submit(write)
        return stored

    def remember_retry(self, request: Any, exc: Any, traceback: Any) -> None:
        """Remember the attempt of a task that is retried and ignores its result."""
        write = Write()
        self._remember(write, attempts.RETRIED, request.id, exc, traceback, request)
        self.submit(write)

    def _remember(self, write: Write, state: str, task_id: Any, error: Any, traceback: Any, request: Any) -> None:
        if self.options.history:
            attempt = attempts.attempt_of(task_id, state, error, traceback, request)
            write.attempts += [] if attempt is None else [attempt]

    @property
    def _collected(self) -> Write | None:
        """The write that this thread collects; None in a process that was forked meanwhile."""
        pid, write = getattr(self._thread, "collected", (0, None))
        return write if pid == os.getpid() else None

    def _collecting(self) -> _Collecting:
        """Collect what this thread stores in the block in one write, which the caller submits."""
        return _Collecting(self._thread, self._collected)


class _Collecting:
    """A class, as each task enters it: a generator takes three times as long."""

    __slots__ = ("_outer", "_thread", "_write")

    def __init__(self, thread: threading.local, outer: Write | None) -> None:
        self._thread, self._outer, self._write = thread, outer, Write()

    def __enter__(self) -> Write:
        self._thread.collected = os.getpid(), self._write
        return self._write

    def __exit__(self, *_: object) -> None:
        self._thread.collected = os.getpid(), self._outer
