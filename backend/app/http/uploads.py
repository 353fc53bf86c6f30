"""The bodies of requests: a limit for each, and for all together."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from starlette.types import Message, Receive

from app.core.settings import Settings
from app.http.problems import Problem
from app.http.shares import Shares

#: What uvicorn may buffer of a body that nothing reads; it counts for each body, however little has arrived.
PIECE = 65_536
#: A client that is refused while it still sends may see a broken connection instead of the answer. So the rest is read
#: and discarded: up to this many times the limit, for this many seconds, and for this many clients at a time.
SWALLOWED, SWALLOW_S, MOST_SWALLOWING = 4, 3.0, 16


class Uploads:
    """All bodies that one process is receiving."""

    def __init__(self, settings: Settings) -> None:
        self.longest = settings.web_max_body_bytes
        self.timeout_s = settings.web_body_timeout
        self.in_flight = Shares(
            "bodies at the same time",
            "bodies",
            settings.web_max_body_bytes_in_flight,
            settings.web_max_body_bytes_in_flight_per_tenant,
        )
        self.swallowing = 0


class Upload:
    """The body of one request.

    Attributes:
        whole: whether it is complete.
    """

    def __init__(self, uploads: Uploads, receive: Receive) -> None:
        self._uploads = uploads
        self._receive = receive
        self._tenant_id: UUID | None = None
        self._taken = 0
        self._content: bytes | None = None
        self.whole = False

    async def read(self, tenant_id: UUID | None, longest: int | None = None, declared: str = "") -> None:
        """Receive the whole body, so that `receive` can pass it to the application.

        Args:
            tenant_id: the tenant whose share it uses; None for no tenant, where `longest` is a few bytes.
            longest: bytes, if fewer than the settings allow.
            declared: the header Content-Length.

        Raises:
            Problem: it is too long, too slow or cut off, or there is no room for it.
        """
        longest = self._uploads.longest if longest is None else longest
        if declared.isdecimal() and (len(declared) > 19 or int(declared) > longest):
            raise _too_long(longest)
        self._tenant_id = tenant_id
        self._take(PIECE)
        body = bytearray()
        try:
            async with asyncio.timeout(self._uploads.timeout_s):
                while not self.whole:
                    piece = await self._piece()
                    if len(body) + len(piece) > longest:
                        raise _too_long(longest)
                    self._take(len(piece))
                    body += piece
        except TimeoutError:
            raise Problem(408, "slow", f"the body did not come within {self._uploads.timeout_s:g} s") from None
        self._content = bytes(body)

    async def receive(self) -> Message:
        """As ASGI's `receive`: the whole body first, if it was read."""
        if self._content is None:
            return await self._receive()
        content, self._content = self._content, None
        return {"type": "http.request", "body": content, "more_body": False}

    async def discard(self) -> None:
        """Receive and discard the rest, within the limits."""
        if self._uploads.swallowing >= MOST_SWALLOWING:
            return
        came = 0
        self._uploads.swallowing += 1
        try:
            with suppress(TimeoutError, Problem):
                async with asyncio.timeout(SWALLOW_S):
                    while not self.whole and came <= SWALLOWED * self._uploads.longest:
                        came += len(await self._piece())
        finally:
            self._uploads.swallowing -= 1

    def close(self) -> None:
        """Release its bytes."""
        if self._tenant_id is not None:
            self._uploads.in_flight.give_back(self._tenant_id, self._taken)
            self._tenant_id = None

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            # The part that arrived may be valid JSON by itself. No client receives this answer; the log has it.
            raise Problem(400, "incomplete", "the client left before the end of the body")
        self.whole = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _take(self, size: int) -> None:
        if self._tenant_id is not None:
            self._uploads.in_flight.take(self._tenant_id, size)
            self._taken += size


def _too_long(longest: int) -> Problem:
    return Problem(413, "too-long", f"the body has more than {longest} bytes")
