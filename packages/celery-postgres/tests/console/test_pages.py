"""The pages as any program receives them: headers, hostile text, sizes, errors."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import time
from contextlib import closing
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
import pytest

from celery_postgres import console
from celery_postgres.console import unanswered
from celery_postgres.database.queue_view_store import QueueViewStore
from celery_postgres.readmodel import ReadModel, observing
from environment.testkit import night
from environment.testkit.console import DEADLINE_S, Console, serving
from environment.testkit.databases import run
from environment.waiting import wait_until


class LateError(psycopg2.OperationalError):
    """As the server cancels a statement."""

    pgcode = "57014"


HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e\x1b[31m&amp;"
LARGEST = 100_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def pages(served: Console) -> list[str]:
    """Every view, some of them with what they can be asked for."""
    ids = served.night.ids
    return [
        *("/", "/queues", "/queue?name=llm", "/queue?name=reports", "/tasks", "/dead", "/workers", "/schedules"),
        *(f"/tasks?state={state}" for state in ("waiting", "scheduled", "running", "succeeded", "failed", "dead")),
        *(f"/task?id={ids[kind]}" for kind in ("waiting", "scheduled", "running", "failed", "succeeded", "dead")),
        "/dead?reason=expired&task=app.tasks.llm.explanation",
        "/tasks?q=nothing-has-this-name",
        "/tasks?tenant=none",
    ]


class Outline(HTMLParser):
    """The tags of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_each_page_is_complete_small_and_its_own(served: Console) -> None:
    for path in pages(served):
        answer = served.get(path)
        assert answer.status == 200, path
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-store"
        page = Outline(answer.text)
        assert page.tags.count("script") == 1
        assert page.tags.count("h1") == page.tags.count("main") == 1
        names = [name for name, _ in page.attributes]
        assert not [name for name in names if name == "style" or name.startswith("on")], path
        loaded = [value for name, value in page.attributes if name in ("src", "action") and value]
        assert all(value.startswith("/") for value in loaded), loaded
        whole = len(answer.text.encode()) + sum(
            len(served.get(value).text) for value in re.findall(r'"(/static/[^"]+)"', answer.text)
        )
        assert whole < LARGEST, (path, whole)


def test_three_hundred_queues_are_a_small_page(module_database: Any, served: Console) -> None:
    run(
        module_database.url,
        "INSERT INTO kombu_queue (name) SELECT 'one-of-many-' || n FROM generate_series(1, 300) AS n",
    )
    try:
        wait_until(lambda: "one-of-many-300" in served.get("/queues").text, DEADLINE_S, "the queues")
        with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
            connection.request("GET", "/queues", headers={"Cookie": served.cookie("reader"), "Accept-Encoding": "gzip"})
            answer = connection.getresponse()
            assert answer.headers["Content-Encoding"] == "gzip"
            assert len(answer.read()) < LARGEST
    finally:
        run(module_database.url, "DELETE FROM kombu_queue WHERE name LIKE 'one-of-many-%'")


def test_files_and_errors_have_the_same_policy(served: Console) -> None:
    page = served.get("/").text
    for path in re.findall(r'"(/static/[^"]+)"', page):
        answer = served.get(path, None)
        assert answer.status == 200
        assert "immutable" in answer.headers["cache-control"]
    for path in ("/static/../access.py", "/static/console.py", "/nothing", "/task?id=nothing", "/queue?name=nothing"):
        answer = served.get(path)
        assert answer.status == 404
        assert answer.headers["content-security-policy"] == POLICY
    answer = served.request("PUT", "/queues", Cookie=served.cookie("operator"))
    assert (answer.status, answer.headers["content-security-policy"]) == (405, POLICY)


def test_what_a_producer_writes_is_text(module_database: Any, served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    name = HOSTILE
    # As a database may be that was never migrated, where no constraint refuses a name.
    for table, constraint in (("kombu_queue", "kombu_queue_name"), ("kombu_consumer", "kombu_consumer_hostname")):
        run(module_database.url, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}")
    text = night.message(name, name, "hostile-id" + name)
    letter = night.message(name, name, "hostile-letter")
    with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO kombu_queue (name) VALUES (%s) RETURNING id", [name])
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload, task_id) VALUES (%s, %s, %s)",
            [cursor.fetchone()[0], text, "hostile-id" + name],
        )
        cursor.execute(
            "INSERT INTO kombu_dead_letter (message_id, failures, queue, task_id, reason, payload)"
            " VALUES (1, 0, %s, 'hostile-letter', %s, %s)",
            [name, name, letter],
        )
        cursor.execute("INSERT INTO kombu_consumer (hostname, pid) VALUES (%s, 1)", [name])
        cursor.execute(
            "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done, traceback, name, worker, queue)"
            " VALUES (nextval('task_id_sequence'), 'hostile-result', 'FAILURE', %s, now() AT TIME ZONE 'UTC', %s, %s,"
            " %s, %s)",
            [
                json.dumps({}).encode(),
                f'  File "{name}", line 1, in {name}\n    {name}\n{name}: {name}',
                name,
                name,
                name,
            ],
        )
        for seconds in (9, 2):
            cursor.execute(
                "INSERT INTO celery_attempt (task_id, state, name, queue, worker, error, traceback, published_at,"
                " started_at, ended_at) SELECT 'hostile-attempt', 'failed', %s, %s, %s, %s, %s,"
                " now() - interval '10 s', now() - %s * interval '1 s', now()",
                [*[name] * 5, seconds],
            )
    asked = quote(name)
    looks = [
        *("/", "/queues", f"/queue?name={asked}", "/tasks", "/tasks?state=failed", "/dead", "/workers"),
        f"/task?id=hostile-id{asked}",
        "/task?id=hostile-letter",
        "/task?id=hostile-result",
        "/task?id=hostile-attempt",
        f"/tasks?q={asked}&queue={asked}&tenant={asked}&state={asked}&when={asked}",
        f"/dead?queue={asked}&reason={asked}&task={asked}",
    ]
    # What all views share is read once a second, and failures every ten.
    monkeypatch.setattr(observing, "CAUSES_FRESH_S", 0.0)
    wait_until(lambda: "\\u202e" in served.get("/queues").text, DEADLINE_S, "the queue of the hostile name")
    seen = 0
    for path in looks:
        answer = served.get(path, "operator+payloads")
        assert answer.status == 200, path
        page = Outline(answer.text)
        assert page.tags.count("script") == 1, path
        assert "img" not in page.tags
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert "\u202e" not in answer.text
        assert "\x1b" not in answer.text
        assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(\S\S)", answer.text)
        seen += "\\u202e" in answer.text
    assert seen >= len(looks) - 1, "the hostile rows were not shown"
    attempts = served.get("/task?id=hostile-attempt", "operator").text
    assert (attempts.count("Attempt 1"), attempts.count("Attempt 2"), attempts.count('<rect class="f-')) == (1, 1, 4)
    assert re.search(r'<rect class="f-bad" x="\d+\.\d" y="2" width="\d+\.\d"', attempts)
    assert "Failures by task and error" in served.get("/").text
    run(
        module_database.url,
        "DELETE FROM kombu_consumer WHERE pid = 1",
        "DELETE FROM celery_taskmeta WHERE task_id = 'hostile-result'",
        "DELETE FROM celery_attempt WHERE task_id = 'hostile-attempt'",
        "DELETE FROM kombu_dead_letter WHERE task_id = 'hostile-letter'",
        "DELETE FROM kombu_message WHERE task_id LIKE 'hostile-%'",
        "DELETE FROM kombu_queue WHERE name LIKE '</title>%'",
    )


@pytest.mark.parametrize(
    "query",
    [
        "before=x",
        "before=" + "A" * 250,
        "worker=99999999999999999999",
        "q=%00",
        "id=%ff",
        "state=nothing",
        "q=%",
        "tenant=urn:uuid:00000000-0000-0000-0000-00000000000a",
        "tenant=%EF%BC%910000000-0000-0000-0000-00000000000a",
    ],
)
def test_what_makes_no_sense_is_no_failure(served: Console, query: str) -> None:
    for path in ("/tasks", "/dead", "/task", "/queue", "/find"):
        assert served.get(f"{path}?{query}").status in (200, 303, 404), path


def test_pages_lead_to_the_end_and_show_each_task_once(served: Console) -> None:
    path, found = "/tasks?state=waiting&queue=llm", []
    for _ in range(40):
        text = served.get(path).text
        found += re.findall(r'href="/task\?id=([^"]+)"', text)
        older = re.search(r'class="btn" href="(/tasks\?[^"]+)" rel="next"', text)
        if older is None:
            break
        path = older[1].replace("&amp;", "&")
    assert len(found) == len(set(found)) == 1_240


def test_find_leads_to_a_task_a_queue_or_a_search(served: Console) -> None:
    task_id = served.night.ids["failed"]
    run(
        served.database_url,
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, payload, reason, task_id)"
        " VALUES (1, 0, 'q', '{}', 'rejected', 'hostile id/ü <b>')",
    )
    for asked, place in (
        (task_id, f"/task?id={task_id}"),
        (task_id[:10], f"/task?id={task_id}"),
        ("llm", "/queue?name=llm"),
        ("explanation", "/tasks?q=explanation"),
        ("hostile id/ü <b>", "/task?id=hostile+id%2F%C3%BC+%3Cb%3E"),
        ("", "/tasks"),
    ):
        assert served.get(f"/find?{urlencode({'q': asked})}").headers["location"] == place
    run(served.database_url, "DELETE FROM kombu_dead_letter WHERE task_id = 'hostile id/ü <b>'")


def test_a_database_that_cannot_be_reached_is_a_page_and_a_line_in_the_log(
    served: Console, caplog: pytest.LogCaptureFixture
) -> None:
    model = ReadModel("host=127.0.0.1 port=1 connect_timeout=1 user=bob password=hunter2")
    with serving(served.database_url, served.night) as other:
        application = console.create(console.Source(model), console.ThisMachine())
        other._server.config.loaded_app = application
        answer = other.request("GET", "/queues")
    assert answer.status == 503
    assert "cannot reach its database" in answer.text
    assert "python -m celery_postgres check" in answer.text
    (line,) = [one.getMessage() for one in caplog.records if "could not read the database" in one.getMessage()]
    assert "Connection refused" in line
    assert "hunter2" not in line + answer.text
    assert answer.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    ("error", "heading"),
    [
        (LateError("canceling statement due to statement timeout"), "No answer"),
        (psycopg2.OperationalError("the 2 connections that may read for views are busy: try again"), "No answer"),
        (psycopg2.OperationalError('FATAL:  password authentication failed for user "bob"\n'), "No database"),
        (psycopg2.DataError("invalid input: hunter2"), "No answer"),
    ],
)
def test_what_the_database_has_said_leads_to_what_can_be_done(error: Exception, heading: str) -> None:
    assert unanswered.on_page(error)[0] == heading
    logged = unanswered.in_log(error)
    assert "hunter2" not in logged
    assert "\n" not in logged
    assert ("password authentication failed" in logged) == (heading == "No database")


def test_below_another_path_every_link_stays_there(served: Console) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    inner = console.create(console.Source(ReadModel(served.database_url)), console.ThisMachine())
    with serving(served.database_url, served.night) as other:
        other._server.config.loaded_app = Starlette(routes=[Mount("/ops/console", inner)])
        page = other.request("GET", "/ops/console/").text
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
        assert links
        assert all(link.startswith("/ops/console/") for link in links), links
        assert other.request("GET", "/ops/console/find?q=llm").headers["location"] == "/ops/console/queue?name=llm"


def test_fifty_tabs_read_what_one_reads(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[float] = []
    read = QueueViewStore.queues

    def counted(store: QueueViewStore, *given: Any, **named: Any) -> Any:
        reads.append(time.monotonic())
        return read(store, *given, **named)

    monkeypatch.setattr(QueueViewStore, "queues", counted)
    for _ in range(50):
        assert served.get("/queues").status == 200
    assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(reads)), "more than once a second"


def test_a_request_without_a_body_or_a_host_is_answered(served: Console) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
        connection.putrequest("POST", "/sign-in", skip_host=True)
        connection.putheader("Host", "127.0.0.1")
        connection.endheaders()
        assert connection.getresponse().status in (400, 401)


def test_a_queue_whose_keys_are_no_tenants_is_not_all_of_no_tenant(served: Console) -> None:
    insert = "INSERT INTO kombu_message (payload, queue_id) SELECT '{}', id FROM kombu_queue WHERE name = 'keyed'"
    run(served.database_url, "INSERT INTO kombu_queue (name, fair) VALUES ('keyed', true)", insert)
    page = served.get("/queue?name=keyed").text
    assert "No task names a tenant that is a UUID." in page
    assert "100 %" not in page
    assert "Another text is a key" in served.get("/tasks?tenant=acme").text
    run(
        served.database_url,
        "DELETE FROM kombu_message WHERE payload = '{}'",
        "DELETE FROM kombu_queue WHERE name = 'keyed'",
    )
