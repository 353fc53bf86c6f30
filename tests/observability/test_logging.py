"""Single log records, without a worker."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from celery.app import trace
from kombu.exceptions import OperationalError

from app.core.context import working_for
from app.core.dsn import PostgresDSN
from app.observability import faults
from app.observability.logging import LONGEST_LINE, JsonFormatter, LineFileHandler, fit
from app.observability.redaction import field, is_secret, scrub
from celery_postgres.database.session import Session
from celery_postgres.errors import Reason, SchemaError, primary

SECRET = "do-not-log-me"


def shown(logger: str, message: object, *args: Any, extra: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    record = logging.getLogger(logger).makeRecord(logger, 20, "f.py", 1, message, args, None, extra=extra, **more)
    before = dict(vars(record))
    line = JsonFormatter("a-service").format(record)
    assert vars(record) == before, "other handlers get the record as it was"
    assert "\n" not in line
    return dict(json.loads(line))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at postgresql://me:pw@h:5/db now", "at postgresql://me:***@h:5/db now"),
        ("sqla+postgresql://me:p@ss/w:rd@h/db", "sqla+postgresql://me:***@h/db"),
        ("two: a://u:p@h b://v:q@i", "two: a://u:***@h b://v:***@i"),
        ("host=h password=hush user=me", "host=h password=*** user=me"),
        ("password='two words' sslpassword = x", "password=*** sslpassword = ***"),
        ("postgresql://h/db?user=a&password=hush&x=1", "postgresql://h/db?user=a&password=***&x=1"),
        ("postgresql://me@h/db and http://h:80/", "postgresql://me@h/db and http://h:80/"),
        ("unexpected token: x = 1", "unexpected token: x = 1"),
    ],
)
def test_passwords_are_cut_out_of_texts(text: str, expected: str) -> None:
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "name", ["password", "DB_PASSWORD", "apiKey", "api_key", "accessToken", "client_secret", "dsn", "DATABASE_URL"]
)
def test_fields_with_secret_names_are_masked(name: str) -> None:
    assert is_secret(name)
    assert field(name, 1) == "***"


@pytest.mark.parametrize("name", ["prompt_tokens", "max_tokens", "monkey", "url", "key", "secretary", "cost_cents"])
def test_fields_with_harmless_names_are_not(name: str) -> None:
    assert field(name, 1) == 1


def test_extra_shows_plain_values_only() -> None:
    line = shown("app.x", "m", extra={"rows": 3, "ratio": float("nan"), "items": [SECRET], "at": "u://a:b@c"})
    assert (line["rows"], line["ratio"], line["items"], line["at"]) == (3, "nan", "<list>", "u://a:***@c")


def test_the_context_is_that_of_this_thread() -> None:
    from uuid import uuid4

    tenant = uuid4()
    seen: list[dict[str, Any]] = []
    with working_for(tenant, "call-1"):
        thread = threading.Thread(target=lambda: seen.append(shown("app.x", "elsewhere")))
        thread.start()
        thread.join()
        here = shown("app.x", "here", extra={"tenant_id": "of somebody else"})
    assert (here["tenant_id"], here["correlation_id"]) == (str(tenant), "call-1")
    assert "tenant_id" not in seen[0]
    assert "tenant_id" not in shown("app.x", "afterwards")


def test_a_record_of_another_library_shows_its_template_only() -> None:
    line = shown("some.lib", "%s took %d ms, %r", SECRET, 5, {"a": SECRET}, extra={"body": SECRET})
    assert line["message"] == "… took 5 ms, …"
    assert SECRET not in json.dumps(line)
    assert shown("some.lib", "%d rows", SECRET)["message"] == "%d rows"
    assert shown("some.lib", ValueError(SECRET))["message"] == "ValueError"
    assert shown("some.lib", "by %r", json.dumps)["message"] == "by json.dumps"


def test_our_broker_says_why_it_is_away_and_quotes_nobody() -> None:
    template = "Cannot reach the broker (%s); next try in %.2f s"
    refused = f'connection to server at "{SECRET}" (10.0.0.7), port 5432 failed: Connection refused'
    line = shown("celery_postgres.consumer.heartbeat", template, Reason(refused), 0.5)
    assert line["message"] == "Cannot reach the broker (connection refused); next try in 0.50 s"
    unknown = shown("celery_postgres.consumer.heartbeat", template, Reason(SECRET), 0.5)
    assert unknown["message"] == "Cannot reach the broker (…); next try in 0.50 s"


def test_the_package_shows_its_texts_and_fields_and_names_cannot_forge_a_line() -> None:
    forged = 'orders\n{"message": "forged"}\x1b[2J'
    extra = {"queue": forged, "consumer": 7, "messages": ["a", "b\n"], "at": "u://a:b@c", "token": SECRET}
    line = shown(
        "celery_postgres.tool", "%s of %r, %s: %s", "step", forged, forged, ["a", SchemaError("b")], extra=extra
    )
    escaped = r'orders\n{"message": "forged"}\x1b[2J'
    assert line["message"] == f"step of {forged!r}, {escaped}: a, celery_postgres.errors.SchemaError: b"
    assert (line["queue"], line["consumer"], line["messages"]) == (escaped, 7, r"a, b\n")
    assert (line["at"], line["token"]) == ("u://a:***@c", "***")
    mapping = {"a": SECRET}
    line = shown("celery_postgres", "%s %s", mapping, json.dumps, extra={"x": mapping, "y": [mapping]})
    assert (line["message"], line["x"], line["y"]) == ("… json.dumps", "…", "…")


@pytest.mark.parametrize("logger", ["celery.worker.strategy", "celery.app.trace", "kombu", "celery_postgresql"])
def test_only_the_package_is_trusted_with_texts_and_fields(logger: str) -> None:
    data = {"name": "a.b", "id": "i", "args": SECRET, "kwargs": SECRET, "return_value": SECRET, "runtime": 1.0}
    for template in (trace.LOG_RECEIVED, trace.LOG_SUCCESS, "%(args)s %(kwargs)s"):
        line = shown(logger, template, data, extra={"data": data, "queue": SECRET, "payload": SECRET})
        assert SECRET not in json.dumps(line)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("25006", "25006 read_only_sql_transaction"),
        ("53100", "53100 disk_full"),
        ("53200", "53200 out_of_memory"),
        ("57014", "57014 query_canceled"),
        ("55P03", "55P03 lock_not_available"),
        ("40P01", "40P01 deadlock_detected"),
        ("ZZ123", "ZZ123"),
    ],
)
def test_our_broker_gives_the_reasons_of_the_server_and_quotes_nobody(database: Any, code: str, expected: str) -> None:
    """Also once the broker has put the server's error into its own words."""
    session = Session(PostgresDSN.parse(database.url).libpq())
    with contextlib.closing(session), pytest.raises(psycopg2.Error, match=SECRET) as caught:
        session.script(f"DO $$ BEGIN RAISE '{SECRET}' USING ERRCODE = '{code}'; END $$")
    line = shown(
        "celery_postgres.consumer.prefetch", "Claiming failed (%s); next try in %.2f s", primary(caught.value), 2
    )
    assert line["message"] == f"Claiming failed ({expected}); next try in 2.00 s"
    assert faults.public_text(caught.value) == f"SQLSTATE {code} ({type(caught.value).__name__})"
    kombus = OperationalError(SECRET)
    kombus.__cause__ = caught.value
    assert faults.public_text(kombus) == faults.public_text(caught.value)


@pytest.mark.parametrize("length", [100, 5_000, 100_000])
@pytest.mark.parametrize("character", ["x", "ü", '"', "\n", "\x00", "\ud800", "𝄞"])
def test_a_line_is_less_than_what_a_pipe_takes_whole(length: int, character: str) -> None:
    text = character * length
    line = fit({"timestamp": "t", "level": "INFO", "message": text, "error.stack_trace": text, "more": text})
    assert len(line.encode()) < LONGEST_LINE
    assert json.loads(line)["level"] == "INFO"
    many = fit({"timestamp": "t", "message": text, **{f"extra{n}": text for n in range(100)}})
    assert len(many.encode()) < LONGEST_LINE
    assert json.loads(many)["timestamp"] == "t"


def test_what_cannot_be_shown_is_said_so(tmp_path: Path) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    class Odd:
        def __str__(self) -> str:
            raise OddError

    file = tmp_path / "log"
    handler = LineFileHandler(str(file), encoding="utf-8")
    handler.setFormatter(JsonFormatter("s"))
    logger = logging.getLogger("app.odd")
    handler.emit(logger.makeRecord("app.odd", 20, "f", 1, "%s", (Odd(),), None))
    file.rename(tmp_path / "log.1")
    handler.emit(logger.makeRecord("app.odd", 20, "f", 1, "after the rotation", (), None))
    handler.close()
    (first,) = (tmp_path / "log.1").read_text().splitlines()
    assert json.loads(first)["message"] == "a record of logger app.odd cannot be shown"
    assert SECRET not in first
    (second,) = file.read_text().splitlines()
    assert json.loads(second)["message"] == "after the rotation"
