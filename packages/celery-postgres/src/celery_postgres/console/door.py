"""The door: who a request comes from, signing in and signing out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qs, quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from celery_postgres.console.access import Keys, ThisMachine, Viewer
from celery_postgres.console.pages import HEADERS, Pages
from celery_postgres.console.sessions import COOKIE, LIFETIME_S, Attempts, Session, Sessions
from celery_postgres.console.sign_outs import SignOuts
from celery_postgres.database.driver import Error as DatabaseError
from celery_postgres.errors import SchemaError, loggable

logger = logging.getLogger(__name__)

#: Bytes of a form: a key, a filter, some hundred ids.
LONGEST_FORM = 65_536
_MOST_FIELDS = 2_000
_NOT_ENDED = (
    "The database could not be told, so a copy of this session's cookie would still work in other processes of the "
    "console, for 12 h at most. If somebody may have one, revoke the key."
)
_SAME = frozenset({"same-origin", "none"})


class FormError(ValueError):
    """A form that is not sent by the console's own pages. The message is for its reader."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A viewer who was let in.

    Attributes:
        viewer: who it is.
        session: of its cookie; None on a console that asks for no key.
    """

    viewer: Viewer
    session: Session | None


def base_of(request: Request) -> str:
    """The path below which the console is mounted; empty at the root."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def query_of(request: Request) -> str:
    """The query of the address, with its question mark. Not from `request.url`, which begins with the Host header: some
    texts there are no address at all."""
    query = request.scope["query_string"].decode("latin-1")
    return f"?{query}" if query else ""


def redirect(location: str) -> RedirectResponse:
    """See another page of the console. The location is a path: the Host header is the sender's text."""
    return RedirectResponse(location, 303, HEADERS)


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form from a page of this console.

    Raises:
        FormError: another site has sent it, or it is too long.
    """
    if not _is_same_site(request):
        raise FormError("This form came from another site, and nothing was done. Open the console and try again.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise FormError("This form is too long, and nothing was done.")
    try:
        return parse_qs(body.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise FormError("This form has too many fields, and nothing was done.") from None


def field(form: dict[str, list[str]], name: str) -> str:
    """The first value of a field; an empty text without one."""
    return form.get(name, [""])[0]


def _is_same_site(request: Request) -> bool:
    """Browsers say where a form was. Older ones send only the origin; a program sends neither, and has no cookie."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in _SAME
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    except ValueError:  # not an address
        return False


class Door:
    """Lets viewers in.

    Args:
        keys: where keys are known.
        sessions: makes the cookies.
        sign_outs: knows which sessions were ended before their time.
        pages: renders the form.
        sources: where a key comes from, for the form: what it is for, and the command that makes it.
    """

    def __init__(
        self,
        keys: Keys,
        sessions: Sessions,
        sign_outs: SignOuts,
        pages: Pages,
        sources: Sequence[tuple[str, str]],
    ) -> None:
        self.keys = keys
        self._sessions = sessions
        self._sign_outs = sign_outs
        self._pages = pages
        self._sources = list(sources)
        self._attempts = Attempts()

    def guest(self, request: Request) -> Guest | None:
        """Who makes this request; None if that is not known. Asks the keys: call it in a thread."""
        if isinstance(self.keys, ThisMachine):
            return Guest(self.keys.viewer, None)
        session = self.session(request)
        viewer = None if session is None else self.viewer_of(session)
        return None if viewer is None else Guest(viewer, session)

    def session(self, request: Request) -> Session | None:
        """What the cookie of this request says, if it is valid and was not ended here. See `viewer_of` for the rest."""
        session = self._sessions.read(request.cookies.get(_cookie_of(request)))
        return None if session is None or self._sign_outs.ended_here(session) else session

    def viewer_of(self, session: Session) -> Viewer | None:
        """Whose session this is; None if its key is not valid any more, or somebody signed out. Call it in a thread."""
        viewer = self.keys.find(session.key)
        return None if viewer is None or self._sign_outs.has(session) else viewer

    def token(self, guest: Guest) -> str | None:
        """The token of this guest's forms."""
        return None if guest.session is None else self._sessions.token(guest.session)

    def verify(self, guest: Guest, form: dict[str, list[str]]) -> None:
        """Return if the form is one of this guest's.

        Raises:
            FormError: it has another token.
        """
        if guest.session is not None and not self._sessions.is_token(guest.session, field(form, "token")):
            raise FormError("This form belongs to an earlier session, and nothing was done. Go back and try again.")

    def ask(self, request: Request, status: int = 401, error: str = "", then: str | None = None) -> Response:
        """The form. Its answer leads to `then`, by default to the page that was asked for."""
        if then is None:
            path = quote(request.scope["path"].removeprefix(base_of(request)))
            then = path + query_of(request) if request.method == "GET" else "/"
        return self._pages.render(
            "sign_in.html", status, base=base_of(request), next=then, error=error, sources=self._sources
        )

    async def sign_in(self, request: Request) -> Response:
        """Exchange a key for a cookie."""
        form = await form_of(request)
        then, address = field(form, "next"), request.client.host if request.client else ""
        if not self._attempts.allows(address):
            return self.ask(request, 429, "Too many wrong keys from this address. Wait a minute.", then)
        viewer = await run_in_threadpool(self.keys.enter, field(form, "key").strip())
        if viewer is None:
            self._attempts.failed(address)
            return self.ask(request, 401, "This key is not valid, or was revoked. Ask the operator for one.", then)
        answer = redirect(base_of(request) + (then if _is_own(then) else "/"))
        answer.set_cookie(
            _cookie_of(request),
            self._sessions.cookie(viewer.key),
            max_age=LIFETIME_S,
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        """End the session, for others who have its cookie too, and let the browser forget it."""
        form = await form_of(request)
        guest = await run_in_threadpool(self.guest, request)
        answer: Response = redirect(f"{base_of(request)}/")
        if guest is not None and guest.session is not None:
            self.verify(guest, form)
            try:
                await run_in_threadpool(self._sign_outs.end, guest.session)
            except (DatabaseError, SchemaError) as error:
                logger.warning("the console could not end a session on the server: %s", loggable(error))
                answer = self._pages.render(
                    "problem.html", 503, base=base_of(request), heading="Signed out in this browser", text=_NOT_ENDED
                )
        answer.delete_cookie(_cookie_of(request), path="/", secure=True, httponly=True, samesite="strict")
        return answer


def _cookie_of(request: Request) -> str:
    """The name of this console's cookie. Browsers keep one cookie of a name for each host, so two consoles that are
    mounted at different paths would sign each other's viewers out."""
    base = base_of(request)
    return f"{COOKIE}-{sha256(base.encode()).hexdigest()[:8]}" if base else COOKIE


def _is_own(path: str) -> bool:
    """Whether this leads to a page of the console, and to no other host."""
    return path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable() and path.isascii()
