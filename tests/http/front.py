"""The web process, and a client for it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from app.core.settings import Settings
from app.db import api_keys
from app.db.engine import build_engine
from environment.testkit.web import WebProcess
from environment.waiting import wait_until

A, B = UUID(int=0xA), UUID(int=0xB)
DEADLINE_S = 60


@dataclass(frozen=True)
class Answer:
    """One answer. ``json`` fails where there is none."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a problem, which every error is."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.body)
        content = self.json
        assert content["status"] == self.status
        assert content["correlation_id"] == self.headers["x-correlation-id"]
        return str(content["code"])


class Front(WebProcess):
    """The web process, and a client with API keys.  Its warnings are errors."""

    def __init__(self, database_url: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(database_url, folder, {**(environment or {}), "PYTHONWARNINGS": "error"})
        self.keys: dict[UUID, str] = {}

    def start(self) -> Self:
        """Start it; return when it answers."""
        self.open()
        return self

    def key(self, tenant: UUID = A) -> str:
        """A key of the tenant, issued once."""
        if tenant not in self.keys:
            engine = build_engine(Settings(database_url=self.database_url))
            with engine.begin() as connection:
                self.keys[tenant] = api_keys.issue(connection, tenant, "test")[1]
            engine.dispose()
        return self.keys[tenant]

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        tenant: UUID | None = A,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; ``body`` is sent as JSON, bytes as they are."""
        sent = dict(headers or {})
        if tenant is not None:
            sent.setdefault("Authorization", f"Bearer {self.key(tenant)}")
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)) as connection:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def submit(self, name: str = "app.tasks.housekeeping.ping", body: Any = None, **options: Any) -> Answer:
        return self.request("POST", f"/v1/tasks/{name}", {} if body is None else body, **options)

    def ended(self, task_id: str, tenant: UUID = A) -> dict[str, Any]:
        """The task, once it has ended."""

        def look() -> Any:
            task = self.get(f"/v1/tasks/{task_id}", tenant=tenant).json
            return task if task["done_at"] else None

        task: dict[str, Any] = wait_until(look, DEADLINE_S, f"task {task_id} to end")
        return task

    @contextmanager
    def events(
        self, task_id: str, *, tenant: UUID = A, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """An open event stream; its lines are read with ``readline``."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)) as connection:
            sent = {"Authorization": f"Bearer {self.key(tenant)}", **(headers or {})}
            connection.request("GET", f"/v1/tasks/{task_id}/events", headers=sent)
            yield connection.getresponse()
