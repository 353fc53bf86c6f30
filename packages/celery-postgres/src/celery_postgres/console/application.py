"""The console as an ASGI application: routes, errors, and what every page has."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from celery_postgres.console import acting, pages, unanswered
from celery_postgres.console.access import Keys, Role, ThisMachine
from celery_postgres.console.action import Done
from celery_postgres.console.door import Door, FormError, base_of, field, form_of, query_of, redirect
from celery_postgres.console.following import Following
from celery_postgres.console.live import Live
from celery_postgres.console.looking import STAFF, Elsewhere, Look, NotThereError, View
from celery_postgres.console.rights import ONLY_LOOKS, Rights
from celery_postgres.console.sessions import Sessions
from celery_postgres.console.sharing import Subject
from celery_postgres.console.sign_outs import SignOuts
from celery_postgres.console.source import Source
from celery_postgres.console.this_machine import ThisMachineAlone
from celery_postgres.console.views import VIEWS, marks, planning
from celery_postgres.database import driver
from celery_postgres.errors import SchemaError

logger = logging.getLogger(__name__)

_SAYS = {
    Role.READER: "Reader: sees all, changes nothing",
    Role.OPERATOR: "Operator: sees all, may act",
    Role.TENANT: "Tenant: sees its own tasks",
}
#: Seconds for which the numbers beside the names of the views are good.
MARKS_S = 5.0
_NOT_THERE = "There is no such page here, or this key does not show it."
#: Where keys of a console without tenants come from.
SOURCES = (
    ("All tasks, looking only", "celery -A APP console --new-key reader NAME"),
    ("All tasks, and acting on them", "celery -A APP console --new-key operator NAME"),
)


def create(
    source: Source,
    keys: Keys,
    *,
    title: str = "Celery",
    secret: str | None = None,
    sources: Sequence[tuple[str, str]] = SOURCES,
    allowed_hosts: Sequence[str] = (),
) -> Starlette:
    """The console, to be served or mounted.

    Args:
        source: what it shows: `celery_postgres.console.source_of(app)`.
        keys: who may look: `ConfiguredKeys`, a class of your own, or `ThisMachine`, which answers to requests of this
            machine alone and refuses all others.
        title: the environment's name, at the top of each page.
        secret: signs sessions. Give all processes the same; by default sessions end with their process.
        sources: where a key comes from, shown at the door: what it is for, and the command that makes it.
        allowed_hosts: with `ThisMachine`, names of this machine in the Host header besides localhost and loopback
            addresses.
    """
    around = [Middleware(ThisMachineAlone, hosts=allowed_hosts)] if isinstance(keys, ThisMachine) else []
    return _Console(source, keys, title, secret, sources).application(around)


class _Console:
    def __init__(
        self, source: Source, keys: Keys, title: str, secret: str | None, sources: Sequence[tuple[str, str]]
    ) -> None:
        self._rights = Rights(source)
        self._pages = pages.Pages(title)
        self._open = isinstance(keys, ThisMachine)
        self._marks: tuple[float, dict[str, dict[str, str]]] = (-MARKS_S, {})
        self._door = Door(keys, Sessions(secret), SignOuts(source.model), self._pages, sources)
        self._live = Live(self._shared)

    def application(self, around: Sequence[Middleware]) -> Starlette:
        """The routes, behind these."""
        # 300 queues are 160 kB of HTML, and 9 kB so. Its length tells nothing: another site's requests have no cookie.
        smaller = [Middleware(GZipMiddleware, minimum_size=1_000)]
        routes = [
            Route("/sign-in", self._post(self._door.sign_in), methods=["POST"]),
            Route("/sign-out", self._post(self._door.sign_out), methods=["POST"]),
            Route("/act", self._act, methods=["POST"]),
            Route("/static/{name}", self._file, methods=["GET"], middleware=smaller),
            *(Route(f"/{one.path}", self._shown(one), methods=["GET"], middleware=smaller) for one in VIEWS),
            *Following(self._door, self._live).routes(),
        ]
        handlers: dict[Any, Any] = {
            NotThereError: self._not_there,
            HTTPException: self._not_there,
            FormError: self._refused,
            SchemaError: self._no_database,
            driver.Error: self._no_database,
            Exception: self._failed,
        }
        application = Starlette(routes=routes, exception_handlers=handlers, middleware=around)
        application.state.live = self._live
        # A redirect would lead to the host in the Host header, which is the sender's text.
        application.router.redirect_slashes = False
        return application

    def _shown(self, view: View) -> Callable[[Request], Response]:
        """The endpoint of a view. Starlette calls it in a thread."""

        def show(request: Request) -> Response:
            guest = self._door.guest(request)
            if guest is None:
                return self._door.ask(request)
            if guest.viewer.role not in view.roles:
                if view.path == "":  # each key has a first page
                    return redirect(f"{base_of(request)}/tasks")
                raise NotThereError(_NOT_THERE)
            look = Look(guest.viewer, self._rights.source(), dict(request.query_params), base_of(request))
            found = view.show(look)
            if isinstance(found, Elsewhere):
                return redirect(found.address)
            around = self._around(look, view, query_of(request), self._door.token(guest))
            return self._pages.render(found.template, **around, **found.content)

        return show

    def _shared(self, subject: Subject) -> str:
        """A page as all get it who follow it: without a name, and without the token of forms."""
        look = Look(subject.viewer, self._rights.source(), dict(subject.query), subject.base)
        found = subject.view.show(look)
        if isinstance(found, Elsewhere):
            raise NotThereError(_NOT_THERE)
        query = f"?{urlencode(subject.query)}" if subject.query else ""
        return self._pages.text(found.template, **self._around(look, subject.view, query, None), **found.content)

    def _around(self, look: Look, view: View, query: str, token: str | None) -> dict[str, Any]:
        """What every page shows around its content."""
        role = look.viewer.role
        marked = self._marked(look) if role in STAFF else {}
        return {
            "base": look.base,
            "look": look,
            "viewer": look.viewer,
            "role_says": self._says(look),
            "token": token,
            "now": datetime.now(UTC),
            "again": f"{look.base}/{view.path}{query}",
            "live": f"{view.path}{query}" if view.live else None,
            "here": view.path if view.parent is None else view.parent,
            "views": [
                {"path": one.path, "name": one.name, "key": one.key, **marked.get(one.path, _NO_MARK)}
                for one in VIEWS
                if one.name is not None and role in one.roles
            ],
        }

    def _says(self, look: Look) -> str:
        """What the viewer may do here."""
        said = "Open on this machine alone" if self._open else _SAYS[look.viewer.role]
        return f"{said.partition(',')[0]}. {ONLY_LOOKS}" if look.viewer.acts and not look.acts else said

    def _marked(self, look: Look) -> dict[str, dict[str, str]]:
        """What the navigation says beside the views: no page waits for the overview each second for the sake of it."""
        read_at, marked = self._marks
        if time.monotonic() - read_at >= MARKS_S:
            marked = marks(look)
            self._marks = time.monotonic(), marked
        return marked

    def _post(self, act: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def posted(request: Request) -> Response:
            return await act(request)

        return posted

    async def _act(self, request: Request) -> Response:
        """Do what a plan said."""
        form = await form_of(request)
        return await run_in_threadpool(self._acted, request, form)

    def _acted(self, request: Request, form: dict[str, list[str]]) -> Response:
        guest = self._door.guest(request)
        if guest is None:
            return self._door.ask(request)
        self._door.verify(guest, form)
        asked = {name: field(form, name) for name in acting.FIELDS if name in form}
        look = Look(guest.viewer, self._rights.source(), asked, base_of(request))
        around = self._around(look, _ACTING, query_of(request), self._door.token(guest))
        if "run" in form:
            run, after = field(form, "run"), field(form, "after")
            look, done = acting.resume(look, run, after, stop="stop" in form)
            return self._told(look, around, done)
        action, _ = acting.action_of(look)
        at = acting.at_of(field(form, "at"))
        plan = action.plan(look, at)
        error = ""
        if plan.typed and field(form, "number").replace(",", "").strip() != str(plan.number):
            error = f"This is not {plan.number}. Nothing was done."
        if plan.refused or error:
            fields = planning.fields(look)
            content = {"plan": plan, "fields": fields, "at": at.isoformat(), "error": error}
            return self._pages.render("plan.html", 409 if plan.refused else 422, **around, **content)
        return self._told(look, around, acting.act(look, plan, at))

    def _told(self, look: Look, around: dict[str, Any], done: Done | acting.Part) -> Response:
        """What was done, or how far it is."""
        if isinstance(done, acting.Part):
            return self._pages.render("part.html", **around, part=done, title_of=look.asked("do"))
        if done.shown is not None:
            return self._pages.render("values.html", **around, back=done.back, **done.shown)
        return self._pages.render("done.html", **around, done=done)

    async def _file(self, request: Request) -> Response:
        found = pages.file(request.path_params["name"])
        if found is None:
            raise NotThereError(_NOT_THERE)
        return found

    # -- errors, each as a page

    async def _not_there(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            answer = self._problem(request, 405, "Not like this", "This page takes no such request.")
            answer.headers.update(error.headers or {})
            return answer
        # Without a key every address looks the same.
        guest = await run_in_threadpool(self._door.guest, request)
        is_file = request.scope["path"].startswith(f"{base_of(request)}/static")
        if guest is None and request.method == "GET" and not is_file:
            return self._door.ask(request)
        text = str(error) if isinstance(error, NotThereError) else _NOT_THERE
        return self._problem(request, 404, "Not here", text)

    async def _refused(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 400, "Not done", str(error))

    async def _no_database(self, request: Request, error: Exception) -> Response:
        logger.warning("the console could not read the database: %s", unanswered.in_log(error))
        return self._problem(request, 503, *unanswered.on_page(error))

    async def _failed(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 500, "The page failed", "The server's log has the reason.")

    def _problem(self, request: Request, status: int, heading: str, text: str) -> Response:
        return self._pages.render("problem.html", status, base=base_of(request), heading=heading, text=text)


_ACTING = next(view for view in VIEWS if view.path == "act")
_NO_MARK: dict[str, str] = {"count": "", "tone": "", "meaning": ""}
