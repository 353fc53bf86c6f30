"""Around every request: a correlation id, limits, a line in the log, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.context import working_for
from app.core.settings import Settings
from app.http import problems
from app.http.problems import Problem
from app.tasks.context import check_correlation_id

logger = logging.getLogger(__name__)

CORRELATION_HEADER = "X-Correlation-ID"
#: Seconds that a client may take to send the body of its request.
BODY_TIMEOUT_S = 20.0
#: A body that is too long is read and thrown away up to this many times the limit: who is answered while he still sends
#: may see a broken connection in the place of the answer.
SWALLOWED = 4

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# One that is not closed goes to the end: else each quote in it would be tried as a beginning, in quadratic time.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Guard:
    """ASGI middleware, the outermost of the application's own."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._most_bytes = settings.web_max_body_bytes
        self._deepest = settings.web_max_json_depth

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

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, correlation_id)
            await send(message)

        with working_for(None, correlation_id):
            try:
                if refused is not None:
                    await refused.response()(scope, receive, answer)
                    return
                if scope["method"] in _WITH_BODY:
                    receive = _replay(await self._read(headers, receive), receive)
                await self._app(scope, receive, answer)
            except Exception as error:
                problem = problems.of(error)
                if status is None:
                    await problem.response()(scope, receive, answer)
            finally:
                _log(scope, status, begun)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The body.

        Raises:
            Problem: it is too long, too deep, too slow, cut off, or in another encoding.
        """
        said = headers.get("content-length", "")
        if said.isdecimal() and len(said) < 20 and int(said) > SWALLOWED * self._most_bytes:
            raise self._too_long()
        body, came = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    came += len(message.get("body", b""))
                    if came <= self._most_bytes:
                        body += message.get("body", b"")
                    elif came > SWALLOWED * self._most_bytes:
                        raise self._too_long()
                    if message["type"] == "http.disconnect":
                        # What came may be JSON by itself. Nobody hears this answer; the log has it.
                        raise Problem(400, "incomplete", "the client left before the end of the body")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            detail = f"the body did not come within {BODY_TIMEOUT_S:g} s"
            raise Problem(408, "slow", detail, headers={"Connection": "close"}) from None
        if came > self._most_bytes:
            raise self._too_long()
        # The parser would read the others too, and what looks like a quote in them need not be one.
        if json.detect_encoding(bytes(body)) not in ("utf-8", "utf-8-sig"):
            raise Problem(400, "malformed-json", "the body is not UTF-8, as JSON is")
        if is_deeper(bytes(body), self._deepest):
            raise Problem(400, "too-deep", f"the body has more than {self._deepest} levels of objects and arrays")
        return bytes(body)

    def _too_long(self) -> Problem:
        detail = f"the body has more than {self._most_bytes} bytes"
        return Problem(413, "too-long", detail, headers={"Connection": "close"})


def is_deeper(document: bytes, levels: int) -> bool:
    """Whether a JSON text nests objects and arrays deeper than that; without parsing it, which would recurse."""
    brackets = _STRINGS.sub(b"", document).translate(_BRACKETS, _OTHERS)
    for _ in range(levels):
        if not brackets:
            return False
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break  # it is not JSON, as its parser will say
        brackets = shorter
    return brackets.count(b"[") > levels or b"[]" in brackets


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _add_headers(message: MutableMapping[str, Any], correlation_id: str) -> None:
    headers = MutableHeaders(scope=message)
    # Latin-1 is what a header can hold.
    headers[CORRELATION_HEADER] = correlation_id.encode("latin-1", "replace").decode("latin-1")
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("X-Content-Type-Options", "nosniff")


def _log(scope: Scope, status: int | None, begun: float) -> None:
    # The route and not the path, which is the sender's text.
    path = getattr(scope.get("route"), "path", None) or "…"
    fields = {"http_status": status, "duration_ms": round((time.monotonic() - begun) * 1000, 1)}
    logger.info("%s %s", scope["method"] if scope["method"].isalpha() else "…", path, extra=fields)
