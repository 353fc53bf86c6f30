"""Live pages: one reading of a page for all tabs that show it, and the events that tell them of changes.

While a tab shows a page, it is read at most once a second, however many tabs do. A tab hears when it has changed, and
asks for it; what it gets is that reading and no second one. Nothing is read while nobody looks.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from celery_postgres.console.access import Viewer
from celery_postgres.console.pages import HEADERS
from celery_postgres.console.sessions import Session
from celery_postgres.console.sharing import Reading, SharedPage, Subject, says
from celery_postgres.database.driver import Error as DatabaseError
from celery_postgres.errors import SchemaError

#: Seconds between two events while nothing changes: a tab that hears nothing for 5 s has lost its stream.
BEAT_S = 2.0
#: Seconds between two looks at whether a stream's viewer may still look.
RECHECK_S = 5.0
#: A stream ends after so many seconds and the tab opens another: a server that stops waits for its streams.
STREAM_S = 60.0
#: Pages that are followed in a process, and by one tenant. Beyond them a tab asks for its page every 10 s.
MOST_STREAMS = 300
MOST_OF_TENANT = 20
#: The same in one stream.
MOST_PAGES = 20
RETRY_AFTER_S = 10
MEDIA_TYPE = "text/event-stream"


class FullError(Exception):
    """There is no room for another stream."""


@dataclass(slots=True)
class _Known:
    asked_at: float
    viewer: asyncio.Task[Viewer | None]


class Live:
    """The pages that tabs show now. Use it in the event loop's thread.

    Args:
        render: makes a page; it runs in a thread.
    """

    def __init__(self, render: Callable[[Subject], str]) -> None:
        self._render = render
        self._pages: dict[Subject, SharedPage] = {}
        self._of_tenants: Counter[object] = Counter()
        self._known: dict[Session, _Known] = {}
        # Readers of pages never take both connections of the read model.
        self._one_at_a_time = asyncio.Semaphore(1)
        self.readings = 0
        self.ended = False

    @property
    def tabs(self) -> int:
        """How many pages are followed, each as often as it is."""
        return sum(one.tabs for one in self._pages.values())

    async def page(self, subject: Subject) -> Reading:
        """The page as it is now, from the reading that its tabs share.

        Raises:
            Exception: what its view raises.
        """
        shared = self._pages.get(subject) or self._shared(subject)
        return await shared.fresh()

    async def viewer(self, session: Session, find: Callable[[Session], Viewer | None]) -> Viewer | None:
        """Whose session this is, asked of `find` at most every `RECHECK_S` seconds, however many tabs it has."""
        known = self._known.get(session)
        if known is None or time.monotonic() - known.asked_at >= RECHECK_S:
            known = _Known(time.monotonic(), asyncio.ensure_future(run_in_threadpool(find, session)))
            while len(self._known) >= MOST_STREAMS:
                del self._known[next(iter(self._known))]
            self._known[session] = known
        viewer = await asyncio.shield(known.viewer)
        if viewer is None:
            self._known.pop(session, None)
        return viewer

    def stream(
        self, wanted: Mapping[str, Subject | None], may_look: Callable[[], Awaitable[bool]]
    ) -> StreamingResponse:
        """A stream of events about pages: those that the windows of one browser show.

        Args:
            wanted: the pages, by what events call them; None for one that is not there.
            may_look: whether their viewer still sees them.

        Raises:
            FullError: there is no room for any of them: `MOST_STREAMS` are followed already, or `MOST_OF_TENANT` of
                this tenant.
        """
        followed: dict[str, Subject] = {}
        left: dict[str, str] = {}
        for of, subject in wanted.items():
            if subject is None:
                left[of] = "gone"
            elif len(followed) >= MOST_PAGES or not self._enter(subject):
                left[of] = "asks"
            else:
                followed[of] = subject
        if not followed and "asks" in left.values():
            raise FullError

        def leave() -> None:
            for subject in followed.values():
                self._leave(subject)

        pages = {of: self._pages[subject] for of, subject in followed.items()}
        return _Stream(self._events(pages, left, may_look), leave)

    def _enter(self, subject: Subject) -> bool:
        """Keep a page for one more who follows it; False if there is no room."""
        tenant = subject.viewer.tenant
        if self.tabs >= MOST_STREAMS or (tenant is not None and self._of_tenants[tenant] >= MOST_OF_TENANT):
            return False
        shared = self._pages.get(subject) or self._shared(subject)
        shared.tabs += 1
        self._of_tenants[tenant] += 1
        if shared.keeper is None:
            # Without the context of the request that happens to be the first.
            shared.keeper = asyncio.get_running_loop().create_task(shared.keep(), context=contextvars.Context())
        return True

    def _leave(self, subject: Subject) -> None:
        shared = self._pages[subject]
        shared.tabs -= 1
        self._of_tenants[subject.viewer.tenant] -= 1
        if not shared.tabs and shared.keeper is not None:
            shared.keeper.cancel()
            shared.keeper = None
            # It is kept for the stream that the same browser begins next: what was read at a cost is not read again.

    def end(self) -> None:
        """End all streams: the server stops."""
        self.ended = True
        for shared in self._pages.values():
            shared.changed.set()

    async def _events(
        self, pages: Mapping[str, SharedPage], left: Mapping[str, str], may_look: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[str]:
        ends_at = time.monotonic() + STREAM_S
        asks_at = 0.0
        while not self.ended and time.monotonic() < ends_at:
            try:
                if not await may_look():
                    yield says({"state": "ended"})
                    return
            except (DatabaseError, SchemaError):
                pass  # whether the key is valid cannot be asked now, and nothing can be read either
            changed = [shared.changed for shared in pages.values()]
            for of, shared in pages.items():
                yield says({"of": of, **shared.now()})
            if time.monotonic() >= asks_at:
                asks_at = time.monotonic() + RETRY_AFTER_S
                for of, state in left.items():
                    yield says({"of": of, "state": state})
            await _any(changed, BEAT_S)

    def _shared(self, subject: Subject) -> SharedPage:
        # Pages that are asked for without a stream are kept too, for the next who asks.
        while len(self._pages) >= 2 * MOST_STREAMS:
            idle = next((one for one, shared in self._pages.items() if not shared.tabs), None)
            if idle is None:
                break
            del self._pages[idle]

        def render() -> str:
            self.readings += 1
            return self._render(subject)

        made = self._pages[subject] = SharedPage(render, self._one_at_a_time)
        return made


async def _any(events: Iterable[asyncio.Event], seconds: float) -> None:
    """Wait for any of these, for so long at most."""
    waits = [asyncio.ensure_future(one.wait()) for one in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


class _Stream(StreamingResponse):
    """A stream that frees its place when it ends, for whatever reason."""

    def __init__(self, content: AsyncIterator[str], on_end: Callable[[], None]) -> None:
        # A proxy that buffers answers would delay the events.
        super().__init__(content, media_type=MEDIA_TYPE, headers=HEADERS | {"X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
