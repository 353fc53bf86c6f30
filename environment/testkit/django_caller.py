"""A program with Django's own connection, by psycopg2 or by psycopg: publishes to a queue in the ways that it has.

``python -m environment.testkit.django_caller URL DRIVER QUEUE``; it prints what it observed as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import django
from celery import Celery
from django import db
from django.conf import settings

import celery_postgres
from celery_postgres.broker.transaction import set_ambient

URL, DRIVER, QUEUE = sys.argv[1:]
if DRIVER == "psycopg2":
    sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django takes it where it is
parts = urlsplit(URL)
query = dict(parse_qsl(parts.query))
settings.configure(
    DEBUG=True,  # Django logs the statements that go through its cursors
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path.lstrip("/"),
            "USER": parts.username,
            "PASSWORD": parts.password or "",
            "HOST": query.get("host", parts.hostname),
            "PORT": query.get("port", parts.port),
        },
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
)
django.setup()
from django.db import connection, connections, transaction  # noqa: E402  # after setup

logged: list[str] = []


class Keeping(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(record.getMessage())


logging.getLogger("django.db.backends").addHandler(Keeping())
logging.getLogger("django.db.backends").setLevel("DEBUG")
celery_postgres.install()
app = Celery("django", broker="sqla+" + URL)


class Undone(Exception):  # noqa: N818
    pass


def send(name: str) -> None:
    app.send_task("a.task", ("s3cret",), queue=QUEUE, task_id=f"{QUEUE}-{name}")


def error_of(function: Any) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def committed() -> None:
    with transaction.atomic(), celery_postgres.publishing_on(connection):
        send("committed")


def rolled_back() -> None:
    with transaction.atomic(), celery_postgres.publishing_on(connection):
        send("rolled-back")
        raise Undone


def nested() -> None:
    with transaction.atomic(), celery_postgres.publishing_on(connections["default"]):
        send("outer")
        with transaction.atomic():
            send("inner-undone")
            transaction.set_rollback(True)
        with transaction.atomic():
            send("inner")


def refused() -> None:
    """The error is handled, and the outer transaction goes on."""
    with transaction.atomic(), celery_postgres.publishing_on(connection):
        try:
            with transaction.atomic():
                send("refused")
        except celery_postgres.NotPublishedError:
            send("afterwards")


def refused_and_ignored() -> None:
    """The error is handled without a savepoint, so nothing else can be in the transaction."""
    with transaction.atomic(), celery_postgres.publishing_on(connection):
        send("lost")
        assert "refused by a test" in error_of(lambda: send("refused"))
        seen["after an error"] = error_of(lambda: send("lost"))


def autocommit() -> None:
    with celery_postgres.publishing_on(connection):
        send("autocommit")


def sqlite() -> None:
    with celery_postgres.publishing_on(connections["other"]):
        send("sqlite")


def ambient() -> None:
    asked: list[str] = []

    def provider(dsn: str) -> Any:
        asked.append(dsn)
        return connection if connection.in_atomic_block else None

    set_ambient(provider)
    try:
        send("ambient-none")
        with transaction.atomic():
            send("ambient")
        with transaction.atomic():
            with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
                for number in range(3):
                    name = f"{QUEUE}-ambient-bulk-{number}"
                    app.send_task("a.task", queue=QUEUE, task_id=name, producer=producer)
            with transaction.atomic():
                send("ambient-inner")
        with transaction.atomic():
            send("ambient-undone")
            transaction.set_rollback(True)
    finally:
        set_ambient(None)
    seen["asked"] = len(set(asked))
    with transaction.atomic():
        send("at-once")
        transaction.set_rollback(True)


seen: dict[str, Any] = {"driver": connection.Database.__name__}
for steps in (committed, rolled_back, nested, refused, refused_and_ignored, autocommit, sqlite, ambient):
    seen[steps.__name__] = error_of(steps)
seen["logged"] = sum("s3cret" in line for line in logged)
seen["statements"] = len(logged)
db.connections.close_all()
print(json.dumps(seen))
