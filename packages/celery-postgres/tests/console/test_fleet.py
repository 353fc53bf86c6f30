"""Workers and schedules: what is shown of them, and what operators do with them."""

from __future__ import annotations

import json
import re
from contextlib import closing
from urllib.parse import urlencode

import psycopg2
import pytest

from environment.testkit.console import Answer, Console
from environment.testkit.databases import run
from environment.testkit.tables import rows, scalar
from environment.waiting import wait_until

DEADLINE_S = 60
HOSTILE = "</td><script>alert(1)</script>\u202e"


def plan(served: Console, do: str, **about: str) -> Answer:
    return served.get(f"/act?{urlencode({'do': do, **about})}")


def confirm(served: Console, page: str) -> str:
    """Do what a plan says; the text of the answer."""
    form = page.partition('action="/act"')[2]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    return text_of(served.request("POST", "/act", fields, Cookie=served.cookie("operator")).text)


def text_of(page: str) -> str:
    """What a person reads of a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<main")[2]).split())


def shown(served: Console, path: str, *parts: str) -> str:
    """A page, once it shows these: what it is made from may be a second old."""
    found = ""

    def there() -> bool:
        nonlocal found
        found = text_of(served.get(path).text)
        return all(part in found for part in parts)

    try:
        wait_until(there, DEADLINE_S, f"{parts} on {path}")
    except TimeoutError as error:
        raise AssertionError(f"{error}: {found}") from None
    return found


def execute(url: str, statement: str, values: dict[str, str]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def test_workers_come_with_what_they_run_the_lost_ones_first(served: Console) -> None:
    page = text_of(served.get("/workers").text)
    assert "2 up, 1 lost . 5 of 16 slots run a task. 2 versions are running:" in page
    assert page.index("llm-4@node-d") < page.index("default-1@node-b")
    assert "8 claims released at" in page
    assert "llm. explanation" in page
    assert "and 2 more" in page
    assert re.search(r"5 of 8 , prefork", page)
    assert "stops now" in page, "it drains and runs nothing"
    location = served.get("/find?q=llm-1%40node-a").headers["location"]
    assert location.startswith("/tasks?state=running&worker=")


def test_draining_a_worker_says_what_it_leaves_alone(served: Console) -> None:
    url = served.database_url
    worker = str(scalar(url, "SELECT id FROM kombu_consumer WHERE name = 'llm-1@node-a'"))
    run(url, "UPDATE kombu_consumer SET beat_at = now()")  # what runs for 30 s by its report goes on since then
    asked = plan(served, "drain-worker", id=worker)
    found = text_of(asked.text)
    assert "A dry run: nothing is changed yet." in found
    assert re.search(r"5 tasks run in it, the longest for [345]\d", found)
    assert "1 queue has no other worker: llm" in found
    assert scalar(url, f"SELECT draining FROM kombu_consumer WHERE id = {worker}") is False  # noqa: S608
    assert "llm-1@node-a ends when its tasks have ended." in confirm(served, asked.text)
    assert scalar(url, f"SELECT draining FROM kombu_consumer WHERE id = {worker}") is True  # noqa: S608
    shown(served, "/workers", "stops when what it runs is done")
    assert "It ends already" in text_of(plan(served, "drain-worker", id=worker).text)
    assert "It is lost" in text_of(plan(served, "drain-worker", id="77").text)
    assert plan(served, "drain-worker", id="0").status == 404


def test_a_worker_that_does_not_report_itself_cannot_be_drained(served: Console) -> None:
    url = served.database_url
    run(url, "INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE VALUES (5, 'older', 9)")
    shown(served, "/workers", "1 other process up", "older", "does not report it")
    assert "does not report itself" in text_of(plan(served, "drain-worker", id="5").text)
    run(url, "DELETE FROM kombu_consumer WHERE id = 5")


def test_a_lost_worker_is_forgotten(served: Console) -> None:
    run(
        served.database_url,
        "INSERT INTO kombu_lost_consumer (id, hostname, pid, claimed, name) VALUES (78, 'h', 1, 0, 'other@h')",
    )
    shown(served, "/workers", "other@h", "0 claims released")
    assert "other@h is no longer listed." in confirm(served, plan(served, "forget-worker", id="78").text)
    assert rows(served.database_url, "SELECT id FROM kombu_lost_consumer") == [(77,)]


def test_schedules_show_what_is_late_and_why(served: Console) -> None:
    late = "UPDATE celery_beat_entry SET next_run_at = now() - interval '12 min' WHERE name = 'nightly-report'"
    run(served.database_url, "UPDATE celery_beat SET seen_at = now()", late)
    page = shown(served, "/schedules", "3 entries, 1 late . 1 beat lives: node-a")
    assert page.index("nightly-report") < page.index("refresh-views"), "the late ones first"
    assert "a beat runs and has not sent it: its log says why" in page
    assert "12 min" in page
    assert "every 5 min" in page
    assert "Disabled" in page
    assert "Europe/Zurich" in page
    assert "Schedule nightly-report is 12 min" in text_of(served.get("/").text)


def test_the_last_run_of_an_entry_and_where_it_waits(served: Console) -> None:
    url, ids = served.database_url, served.night.ids
    last = "UPDATE celery_beat_entry SET last_task_id = '{}', sent_at = now() WHERE name = '{}'"
    run(
        url,
        last.format(ids["failed"], "nightly-report"),
        last.format(ids["succeeded"], "refresh-views"),
        last.format(ids["waiting"], "weekly-digest"),
    )
    page = shown(served, "/schedules", "Failed", "Succeeded", "Waiting")
    assert re.search(r"waits in the (paused )?queue \w+", page)


def test_entries_are_run_disabled_and_enabled(served: Console) -> None:
    url = served.database_url
    state = "SELECT enabled, requested_at IS NOT NULL, counts_from IS NOT NULL FROM celery_beat_entry WHERE name = '{}'"
    run(url, "UPDATE celery_beat SET seen_at = now()")
    shown(served, "/schedules", "1 beat lives")
    asked = plan(served, "run-now", name="refresh-views")
    assert "A beat does so within 5 s" in text_of(asked.text)
    assert rows(url, state.format("refresh-views")) == [(True, False, False)], "a dry run"
    assert "a beat sends it within 5 s" in confirm(served, asked.text)
    assert rows(url, state.format("refresh-views")) == [(True, True, False)]
    shown(served, "/schedules", "is sent within 5 s")
    assert "It is asked for already" in text_of(plan(served, "run-now", name="refresh-views").text)

    asked = plan(served, "disable", name="refresh-views")
    assert "No beat sends maintenance.refresh_views by its schedule (every 5 min)" in text_of(asked.text)
    assert "refresh-views is disabled." in confirm(served, asked.text)
    assert rows(url, state.format("refresh-views")) == [(False, True, False)], "what was asked for is still sent"
    assert "It is disabled already." in text_of(plan(served, "disable", name="refresh-views").text), "at once"

    asked = plan(served, "enable", name="refresh-views")
    assert "what was due meanwhile is not sent" in text_of(asked.text)
    assert "refresh-views is enabled." in confirm(served, asked.text)
    assert rows(url, state.format("refresh-views")) == [(True, True, True)]
    assert plan(served, "enable", name="no such entry").status == 404


def test_without_a_beat_a_run_waits_for_one(served: Console) -> None:
    url = served.database_url
    run(url, "UPDATE celery_beat SET seen_at = now() - interval '2 minutes'")
    page = shown(served, "/schedules", "No beat lives: the last one, on node-a, was seen 2 min")
    assert "no beat runs" in page
    assert "No beat has run for 2 min" in shown(served, "/", "No beat has run")
    assert "as soon as one starts" in text_of(plan(served, "run-now", name="nightly-report").text)
    run(url, "UPDATE celery_beat SET seen_at = now()")


@pytest.mark.parametrize("path", ["/workers", "/schedules"])
def test_hostile_names_are_text(served: Console, path: str) -> None:
    url = served.database_url
    task = json.dumps([{"id": HOSTILE, "task": HOSTILE, "for_s": 1e300}, {"task": 7}, 5])
    execute(
        url,
        "INSERT INTO kombu_consumer (id, hostname, pid, name, pool, slots, busy, app_version, beat_at, running)"
        " OVERRIDING SYSTEM VALUE VALUES (6, 'h', 1, %(name)s, %(name)s, 2000000000, -5, %(name)s,"
        " now() + interval '1 day', %(task)s), (7, 'h', 1, 'odd', NULL, -1, NULL, NULL, NULL, '{\"a\": 1}')",
        {"name": HOSTILE, "task": task},
    )
    execute(
        url,
        "INSERT INTO celery_beat_entry (name, last_run_at, runs, task, schedule, last_task_id)"
        " VALUES (%(name)s, now(), 1, %(name)s, %(name)s, %(name)s)",
        {"name": HOSTILE},
    )
    wait_until(lambda: "alert(1)" in served.get(path).text, DEADLINE_S, "the hostile rows")
    answer = served.get(path)
    assert answer.status == 200
    assert "<script>alert" not in answer.text
    assert "\u202e" not in answer.text
    run(url, "DELETE FROM kombu_consumer WHERE id IN (6, 7)", "DELETE FROM celery_beat_entry WHERE task LIKE '<%'")
