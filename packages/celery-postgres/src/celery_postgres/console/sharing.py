"""One reading of a page for all who show it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool

from celery_postgres.console.access import Viewer
from celery_postgres.console.looking import NotThereError, View
from celery_postgres.database.driver import Error as DatabaseError
from celery_postgres.errors import SchemaError

logger = logging.getLogger(__name__)

#: For how long a reading is good for all who ask, in seconds.
FRESH_S = 1.0
#: A page is read for at most a tenth of the time: a search that takes a second is repeated after nine.
REST = 9


class Subject(NamedTuple):
    """A page that is the same for all who may see it.

    Attributes:
        viewer: what its viewers have in common: the role, the tenant, the rights.
        view: the view.
        query: the parameters of its address.
        base: the path below which the console is mounted.
    """

    viewer: Viewer
    view: View
    query: tuple[tuple[str, str], ...]
    base: str


class Reading(NamedTuple):
    """A page as it was read: its HTML, compressed; what it is known by; and when."""

    page: bytes
    digest: str
    at: datetime


class SharedPage:
    """A page that tabs show. Use it in the event loop's thread."""

    def __init__(self, render: Callable[[], str], one_at_a_time: asyncio.Semaphore) -> None:
        self._render = render
        self._one_at_a_time = one_at_a_time
        self._reading = asyncio.Lock()
        self._read_at = -FRESH_S
        self._cost_s = 0.0
        self._error: Exception | None = None
        self.tabs = 0
        self.latest: Reading | None = None
        self.state = ""  # nothing was read yet
        self._told: tuple[str | None, str] = (None, "")
        self.changed = asyncio.Event()
        self.keeper: asyncio.Task[None] | None = None

    async def fresh(self) -> Reading:
        """A reading that is at most `FRESH_S` old, or as old as its cost asks for.

        A failure is shared like a reading: while a server hangs, fifty tabs would otherwise wait one after the other.

        Raises:
            Exception: what its view raises.
        """
        async with self._reading:
            age_s = time.monotonic() - self._read_at
            if self._error is not None and age_s < FRESH_S:
                raise self._error.with_traceback(None)
            latest = self.latest
            if latest is None or self._error is not None or age_s >= self.rest_s:
                latest = self.latest = await self._read(latest)
            return latest

    @property
    def rest_s(self) -> float:
        """Seconds from one reading to the next."""
        return max(FRESH_S, self._cost_s * REST)

    async def _read(self, before: Reading | None) -> Reading:
        async with self._one_at_a_time:
            begun = time.monotonic()
            try:
                text = await run_in_threadpool(self._render)
                self._error = None
            except Exception as error:
                self._error = error
                raise
            finally:
                self._read_at = time.monotonic()
                self._cost_s = self._read_at - begun
        digest, at = _digest(text), datetime.now(UTC)
        if before is not None and before.digest == digest:
            return before._replace(at=at)
        return Reading(await run_in_threadpool(gzip.compress, text.encode(), 6), digest, at)

    async def keep(self) -> None:
        """Read again and again until this is cancelled."""
        while True:
            try:
                await self.fresh()
                self.state = "ok"
            except NotThereError:
                self.state = "gone"
            except (DatabaseError, SchemaError):
                self.state = "failed"
            except Exception:
                logger.exception("a live page failed")
                self.state = "failed"
            now = (None if self.latest is None else self.latest.digest), self.state
            if now != self._told:
                self._told = now
                turned, self.changed = self.changed, asyncio.Event()
                turned.set()
            await asyncio.sleep(self.rest_s)

    def now(self) -> dict[str, str]:
        """Which page it is now, when it was read, and how it goes."""
        latest = self.latest
        known = {} if latest is None else {"page": latest.digest, "at": latest.at.isoformat()}
        return known | {"state": self.state}


def says(event: Mapping[str, str]) -> str:
    """An event as a stream has it."""
    return f"data: {json.dumps(event)}\n\n"


def _digest(text: str) -> str:
    """Of what a reader looks at: the navigation and the content, without the time at which it was read."""
    parts = [text.partition(begin)[2].partition(end)[0] for begin, end in (("<nav", "</nav>"), ("<main", "</main>"))]
    return sha256("".join(parts).encode("utf-8", "replace")).hexdigest()[:16]
