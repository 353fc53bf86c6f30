"""Around every request: a correlation id, limits, a log line, and an answer in every case."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.context import working_for
from app.core.settings import Settings
from app.http import problems
from app.http.credentials import KnownKeys
from app.http.hosts import AllowedHosts
from app.http.problems import Problem
from app.http.uploads import Upload, Uploads
from app.tasks.context import check_correlation_id

logger = logging.getLogger(__name__)

CORRELATION_HEADER = "X-Correlation-ID"
#: Bytes of a form of the console. It checks the key or the session when the form is complete.
LONGEST_FORM = 4_096
#: Below this path is the console.
_CONSOLE = "/console/"

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Guard:
    """ASGI middleware, the outermost of the application's own."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._uploads = Uploads(settings)
        self._keys = KnownKeys()
        self._hosts = AllowedHosts(settings.web_allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            correlation_id = check_correlation_id(headers.get(CORRELATION_HEADER) or None)
            refused = None
        except ValueError as error:
            correlation_id, refused = str(uuid4()), Problem(400, "correlation-id", str(error))
        begun = time.monotonic()
        status: int | None = None

        upload = Upload(self._uploads, receive)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Otherwise uvicorn would read an unwanted body to its end in order to reach the next request.
                _add_headers(message, correlation_id, close=has_body and not upload.whole)
            await send(message)

        with working_for(None, correlation_id):
            try:
                self._check(scope, headers, refused)
                if scope["method"] in _WITH_BODY:
                    await self._read(scope["path"], headers, upload)
                await self._app(scope, upload.receive, answer)
            except Exception as error:
                problem = problems.of(error)
                if status is None:
                    await _refuse(problem, headers, upload, answer)
            finally:
                upload.close()
                _log(scope, status, begun)

    def _check(self, scope: Scope, headers: Headers, refused: Problem | None) -> None:
        """Raise a `Problem` for a request that is refused for every route."""
        if refused is not None:
            raise refused
        # Two lengths, or one that HTTP/1.0 does not define: a proxy in front may have used the other (RFC 9112, 6.1).
        if "transfer-encoding" in headers and ("content-length" in headers or scope.get("http_version") == "1.0"):
            raise Problem(400, "ambiguous-length", "the request declares the length of its body twice")
        host = headers.get("host")  # HTTP/1.0 has none
        if host is not None and host not in self._hosts:
            raise Problem(
                421,
                "other-host",
                "this server does not answer to this host name; WEB_ALLOWED_HOSTS lists those that it does",
            )

    async def _read(self, path: str, headers: Headers, upload: Upload) -> None:
        """Receive the body, where the route takes one, and only from a client with a valid key."""
        declared = headers.get("content-length", "")
        if path.startswith(_CONSOLE):
            await upload.read(None, LONGEST_FORM, declared=declared)
        elif path.startswith("/v1/"):
            await upload.read(await self._keys.tenant_of(headers.get("authorization")), declared=declared)


async def _refuse(problem: Problem, headers: Headers, upload: Upload, send: Send) -> None:
    """Answer, even while the client still sends."""
    response = problem.response()
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    # A body in chunks of one byte each takes 15 us a byte to read; and a client that sent "Expect" will not send the
    # body.
    if "content-length" in headers and "expect" not in headers:
        await upload.discard()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _add_headers(message: MutableMapping[str, Any], correlation_id: str, *, close: bool) -> None:
    headers = MutableHeaders(scope=message)
    # A header can contain Latin-1 only.
    headers[CORRELATION_HEADER] = correlation_id.encode("latin-1", "replace").decode("latin-1")
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if close:
        headers["Connection"] = "close"


def _log(scope: Scope, status: int | None, begun: float) -> None:
    # The route and not the path, because the path is the sender's text.
    path = getattr(scope.get("route"), "path", None) or "…"
    fields = {"http_status": status, "duration_ms": round((time.monotonic() - begun) * 1000, 1)}
    logger.info("%s %s", scope["method"] if scope["method"].isalpha() else "…", path, extra=fields)
