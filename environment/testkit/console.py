"""A served console on the broker of a bad night, with a key for everybody who may look."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import uvicorn

from celery_postgres import console, operations
from celery_postgres.console import new_key
from celery_postgres.console.serving import Server
from celery_postgres.readmodel import Page, ReadModel, State, TaskFilter, TaskRow
from environment.testkit import night
from environment.testkit.browser import Browser
from environment.waiting import wait_until

DEADLINE_S = 60
TENANTS = {"tenant A": night.ACME, "tenant B": night.BOREALIS}


@dataclass(frozen=True)
class Answer:
    """An answer of the console."""

    status: int
    headers: Mapping[str, str]
    text: str


class Owners:
    """Whose a task is, as an application may record it."""

    def __init__(self, model: ReadModel, tasks: Mapping[UUID, list[str]]) -> None:
        self._model, self._tasks = model, tasks

    def tasks(self, tenant: UUID, which: TaskFilter, cursor: str | None, limit: int) -> Page:
        rows = [TaskRow(one, "a.task", State.FAILED, None) for one in self._tasks[tenant]]
        return Page(tuple(row for row in rows if which.state in (None, row.state))[:limit])

    def owns(self, tenant: UUID, task_id: str) -> bool:
        return task_id in self._tasks[tenant]


@dataclass
class TenantKeys:
    """Keys of two tenants. Those in `revoked` are not valid any more."""

    revoked: set[str] = field(default_factory=set)

    def enter(self, key: str) -> console.Viewer | None:
        return self.find(f"t:{key.removeprefix('key of ')}") if key.startswith("key of ") else None

    def find(self, key_id: str) -> console.Viewer | None:
        name = key_id.removeprefix("t:")
        if name not in TENANTS or name in self.revoked:
            return None
        return console.Viewer(console.Role.TENANT, name, key_id, tenant=TENANTS[name])


class Console:
    """A served console.

    Attributes:
        keys: by the name of who has them.
        night: the ids of its tasks.
    """

    def __init__(
        self,
        application: Any,
        keys: Mapping[str, str],
        rows: night.Night,
        url: str,
        held: TenantKeys,
        port: int,
    ) -> None:
        self.application = application
        self.keys, self.night, self.database_url, self.tenant_keys = keys, rows, url, held
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self._server = Server(uvicorn.Config(application, log_level="critical", lifespan="off"), application)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._cookies: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started, DEADLINE_S, "the console")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        self._socket.close()

    def request(self, method: str, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None
        if form is not None:
            body = urlencode(form)
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)) as connection:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            content = response.read()
            packed = found.get("content-encoding") == "gzip"
            return Answer(response.status, found, (gzip.decompress(content) if packed else content).decode())

    def cookie(self, who: str) -> str:
        """The cookie of somebody who has signed in, once."""
        if who not in self._cookies:
            answer = self.request("POST", "/sign-in", {"key": self.keys[who], "next": "/"})
            assert answer.status == 303, answer
            self._cookies[who] = answer.headers["set-cookie"].partition(";")[0]
        return self._cookies[who]

    def get(self, path: str, who: str | None = "operator", **headers: str) -> Answer:
        given = {} if who is None else {"Cookie": self.cookie(who)}
        return self.request("GET", path, None, **given, **headers)


def staff_keys() -> dict[str, tuple[str, str]]:
    """A key for each who is no tenant, with its line of configuration."""
    return {who: new_key(who, who.replace("+", "-")) for who in ("reader", "operator", "operator+payloads")}


@contextmanager
def serving(
    url: str, rows: night.Night, *, port: int = 0, staff: Mapping[str, tuple[str, str]] | None = None, **options: Any
) -> Iterator[Console]:
    """A console of this database with a key for everybody, on a free port or this one."""
    staff = staff or staff_keys()
    keys, lines = {who: key for who, (key, _) in staff.items()}, [line for _, line in staff.values()]
    held = TenantKeys()
    model, broker = ReadModel(url), operations.connect(url)
    owned = {night.ACME: [rows.ids["failed"], rows.ids["expired"]], night.BOREALIS: [rows.ids["dead"]]}
    application = console.create(
        console.Source(model, Owners(model, owned), broker),
        console.FirstOf(console.ConfiguredKeys(lines), held),
        title="production",
        **options,
    )
    served = Console(application, keys | {name: f"key of {name}" for name in TENANTS}, rows, url, held, port)
    try:
        served.start()
        yield served
    finally:
        served.close()
        model.close()
        broker.close()


def enter(browser: Browser, served: Console, who: str) -> None:
    """Give the browser somebody's session."""
    name, _, value = served.cookie(who).partition("=")
    flags = {"path": "/", "secure": True, "httpOnly": True, "sameSite": "Strict"}
    browser.call("Network.setCookie", name=name, value=value, url=served.address, **flags)
