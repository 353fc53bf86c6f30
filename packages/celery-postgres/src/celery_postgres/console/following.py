"""The addresses that a live page asks: `/events` tells it of changes, `/fresh` is the page as it is now."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from celery_postgres.console.access import ThisMachine, Viewer
from celery_postgres.console.door import Door, base_of
from celery_postgres.console.live import RETRY_AFTER_S, FullError, Live
from celery_postgres.console.looking import LONGEST, NotThereError
from celery_postgres.console.pages import HEADERS, HTML
from celery_postgres.console.sharing import Subject
from celery_postgres.console.views import VIEWS

_VIEWS = {view.path: view for view in VIEWS if view.live}
_NOT_THERE = "There is no such page here, or this key does not show it."
#: Characters of an address, and parameters in it.
_LONGEST, _MOST = 10 * LONGEST, 50


class Following:
    """Serves those who follow a page.

    Args:
        door: knows who asks.
        live: reads the pages.
    """

    def __init__(self, door: Door, live: Live) -> None:
        self._door = door
        self._live = live

    def routes(self) -> list[Route]:
        """Both addresses. Without compression: a stream would be buffered, and a page is compressed once for all."""
        return [
            Route("/events", self.events, methods=["GET"]),
            Route("/fresh", self.fresh, methods=["GET"]),
        ]

    async def events(self, request: Request) -> Response:
        """Tell of changes of the pages that the parameters `of` name, until their viewer may not see them any more.

        One stream is for all windows of a browser, which has six connections to a host over HTTP/1.1.
        """
        viewer = await self._viewer(request)
        if viewer is None:
            return self._door.ask(request)

        async def may_look() -> bool:
            return await self._viewer(request) is not None

        try:
            return self._live.stream(_subjects(request, viewer), may_look)
        except FullError:
            headers = HEADERS | {"Retry-After": str(RETRY_AFTER_S)}
            return PlainTextResponse("There is no room for more live pages; ask for the page itself.", 429, headers)

    async def fresh(self, request: Request) -> Response:
        """The page, as all get it who follow it."""
        viewer = await self._viewer(request)
        if viewer is None:
            return self._door.ask(request)
        reading = await self._live.page(_subject(request.query_params.get("of", ""), request, viewer))
        headers = HEADERS | {"Content-Encoding": "gzip", "X-Page": reading.digest}
        return Response(reading.page, 200, headers, HTML)

    async def _viewer(self, request: Request) -> Viewer | None:
        keys = self._door.keys
        if isinstance(keys, ThisMachine):
            return keys.viewer
        session = self._door.session(request)
        return None if session is None else await self._live.viewer(session, self._door.viewer_of)


def _subjects(request: Request, viewer: Viewer) -> dict[str, Subject | None]:
    """The pages that are followed; None for one that is not there, such as that of a window with another session.

    Raises:
        NotThereError: none of them is.
    """
    found: dict[str, Subject | None] = {}
    for of in request.query_params.getlist("of")[:_MOST]:
        try:
            found[of] = _subject(of, request, viewer)
        except NotThereError:
            found[of] = None
    if not any(found.values()):
        raise NotThereError(_NOT_THERE)
    return found


def _subject(of: str, request: Request, viewer: Viewer) -> Subject:
    """The page that is followed.

    Raises:
        NotThereError: there is no such page for this viewer, or it does not change by itself.
    """
    path, _, query = of.partition("?")
    view = _VIEWS.get(path)
    if view is None or viewer.role not in view.roles or len(of) > _LONGEST:
        raise NotThereError(_NOT_THERE)
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST))
    except ValueError:
        raise NotThereError("This address has too many parts.") from None
    return Subject(viewer.shared(), view, tuple(given.items()), base_of(request))
