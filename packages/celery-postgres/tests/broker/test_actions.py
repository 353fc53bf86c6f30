"""The record of what people do, and of workers that were lost."""

from __future__ import annotations

import getpass
import json
from contextlib import closing
from typing import Any

import pytest

from celery_postgres import operations
from celery_postgres.consumer import maintenance
from celery_postgres.consumer.maintenance import Maintenance
from celery_postgres.database.action_store import ActionStore
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.session import Session
from celery_postgres.readmodel.changes import did
from environment.testkit.queue_tool import Tool, typed
from environment.testkit.tables import rows, run, scalar

MESSAGE = '{{"body": "W10=", "headers": {{"task": {name}}}, "properties": {{}}}}'


def queue_of(url: str, name: str) -> None:
    run(url, f"INSERT INTO kombu_queue (name) VALUES ('{name}')")  # noqa: S608


def test_an_action_is_there_before_it_begins_and_its_end_when_it_has_ended(plain_database: Any) -> None:
    with operations.connect(plain_database.url) as broker:
        with broker.actions.recorded(
            source="http", actor="ann\0", action="pause", subject="mail\ud800", conditions={"queue": "mail"}, planned=3
        ) as record:
            (going,) = broker.actions.actions(10)
            assert (going.ended_at, going.planned, going.done) == (None, 3, 0)
            record.done, record.outcome = 3, "3 wait"
        (ended,) = broker.actions.actions(10)
        assert (ended.actor, ended.subject, ended.done, ended.outcome) == (*("ann\\0", "mail\\ud800", 3, "3 wait"),)
        assert ended.ended_at is not None
        assert ended.login == scalar(plain_database.url, "SELECT session_user::text")
        assert broker.actions.end(ended.id, 1, "again") is None, "an end is written once"
        block = {"source": "http", "actor": "ann", "action": "block"}
        with pytest.raises(ValueError, match="a secret"), broker.actions.recorded(**block):
            raise ValueError("a secret")
        assert broker.actions.actions(1)[0].outcome == "failed: ValueError"
        assert [one.action for one in broker.actions.actions(10, before=broker.actions.actions(1)[0].id)] == ["pause"]


def test_what_programs_do_with_their_own_tasks_hides_no_change(plain_database: Any) -> None:
    with operations.connect(plain_database.url) as broker:
        for source, action in (("console", "pause"), *(("http", "revoke"), ("console", "read")) * 30):
            broker.actions.begin(source=source, actor="ann", action=action)
        assert [one.action for one in broker.actions.changes(20)] == ["pause"]


def test_a_pause_ends_with_its_resumption(plain_database: Any) -> None:
    """Whatever paused it again has recorded nothing."""
    with operations.connect(plain_database.url) as broker:
        for action in ("pause", "resume", "pause"):
            broker.actions.begin(source="console", actor=action, action=action, subject="mail")
            found = broker.actions.pauses(["mail"])
            assert [one.actor for one in found.values()] == ([] if action == "resume" else ["pause"])


def test_only_who_began_an_action_goes_on_with_it(plain_database: Any) -> None:
    with operations.connect(plain_database.url) as broker:
        number = broker.actions.begin(
            source="console", actor="ann", action="requeue", conditions={"queue": "q"}, planned=9
        )
        assert broker.actions.unfinished(number, "bob") is None
        assert broker.actions.go_on(number, "bob", 4) is None
        assert broker.actions.go_on(number, "ann", 4) == 4
        found = broker.actions.unfinished(number, "ann")
        assert found is not None
        assert (found.action, found.conditions, found.planned, found.done) == ("requeue", {"queue": "q"}, 9, 4)
        assert broker.actions.end(number, 5, "done") == 9
        assert broker.actions.unfinished(number, "ann") is None
        assert broker.actions.go_on(number, "ann", 1) is None


def test_the_tool_records_what_it_changes_and_nothing_else(tool: Tool, plain_database: Any) -> None:
    url = plain_database.url
    queue_of(url, "mail")
    run(
        url,
        "INSERT INTO kombu_message (queue_id, payload) SELECT id, '{}' FROM kombu_queue, generate_series(1, 2)",
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload) VALUES (1, 1, 'mail', 'r', '{}')",
    )
    tool("pause", "mail")
    tool("purge", "mail")
    tool("purge", "mail", "--yes")
    tool("dead", "list")
    (letter,) = tool("dead", "list")
    tool("dead", "show", str(letter["id"]))
    tool("dead", "show", str(letter["id"]), "--payload")
    tool("dead", "purge", "--reason", "r", "--yes")
    assert typed(url, "pause", "nothing").returncode == 1

    found = tool("actions")
    assert [(one["action"], one["subject"], one["done"], one["outcome"]) for one in found] == [
        ("pause", "nothing", 0, "failed: there is no queue 'nothing'"),
        ("discard", "", 1, "deleted 1 dead letter"),
        ("read", str(letter["id"]), 1, ""),
        ("purge", "mail", 2, "deleted 2 messages of mail"),
        ("pause", "mail", 1, "mail is paused; consumers follow within 1.3 s"),
    ]
    assert [one["planned"] for one in found] == [1, None, 1, None, 1]
    with operations.connect(url) as broker:
        told = [did(one).partition(" ")[2] for one in broker.actions.actions(5)]
    assert told[0] == "tried to pause nothing"
    assert told[-1] == "paused mail"
    assert {one["actor"].partition("@")[0] for one in found} == {getpass.getuser()}
    assert json.loads(str(scalar(url, "SELECT conditions FROM console_action WHERE action = 'discard'"))) == {
        "reason": "r"
    }


def test_a_worker_that_others_find_dead_is_kept_with_what_it_had_claimed(plain_database: Any) -> None:
    url = plain_database.url
    queue_of(url, "mail")
    run(
        url,
        "INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE VALUES (7, 'box', 12), (8, 'box', 13)",
        "INSERT INTO kombu_message (queue_id, payload, visible, consumer_id, fence)"
        " SELECT id, '{}', false, 7, 5 FROM kombu_queue, generate_series(1, 3)",
        "INSERT INTO kombu_lost_consumer (id, lost_at, claimed) VALUES (1, now() - interval '8 days', 0)",
    )
    session = Session(url)
    maintenance = Maintenance(5)
    maintenance.rescue(session, 8, 99)
    assert ActionStore(session).lost(3600, 10) == [], "its counter went on: it lives"
    maintenance.rescue(session, 7, 0)
    maintenance.rescue(session, 7, 0)
    (lost,) = ActionStore(session).lost(3600, 10)
    assert (lost.id, lost.hostname, lost.pid, lost.claimed) == (7, "box", 12, 3)
    assert rows(url, "SELECT id FROM kombu_lost_consumer") == [(7,)], "those of before last week are gone"
    # Without the table, tasks are rescued all the same.
    run(url, "DROP TABLE kombu_lost_consumer", "UPDATE kombu_message SET visible = false, consumer_id = 8, fence = 6")
    maintenance.rescue(session, 8, 0)
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE visible") == 3
    session.close()


def test_what_people_did_is_kept_for_a_year_but_for_what_still_holds(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = plain_database.url
    queue_of(url, "halted")
    run(
        url,
        "UPDATE kombu_queue SET paused = true",
        "INSERT INTO console_action (began_at, ended_at, source, actor, action, subject)"
        " SELECT now() - make_interval(days => 370), now() - make_interval(days => 370), 'tool', 'ann', 'purge', 'mail'"
        " FROM generate_series(1, 2500)",
        "INSERT INTO console_action (began_at, source, actor, action, subject) VALUES"
        " (now() - make_interval(days => 369), 'tool', 'ann', 'pause', 'halted'),"
        " (now() - make_interval(days => 368), 'tool', 'bob', 'pause', 'halted'),"
        " (now() - make_interval(days => 368), 'tool', 'bob', 'pause', 'gone'),"
        " (now() - make_interval(days => 364), 'tool', 'bob', 'purge', 'mail')",
    )
    asked = "SELECT actor, action, subject FROM console_action ORDER BY id"
    monkeypatch.setattr(maintenance, "ORPHANS_S", 0.0)
    with closing(Session(url)) as session:
        Maintenance(5, Retention(actions_s=None)).run(session, lambda session: None)
        assert len(rows(url, asked)) == 2_504
        Maintenance(5).run(session, lambda session: None)
        assert rows(url, asked) == [("bob", "pause", "halted"), ("bob", "purge", "mail")]
        assert ActionStore(session).pauses(["halted"])["halted"].actor == "bob"


@pytest.mark.parametrize(
    "name", ["a.task", 'say "hi"', 'ends with "', "back\\slash", 'odd \\" end', "schön", "x" * 255]
)
def test_the_name_of_a_dead_letter_is_kept_beside_it(plain_database: Any, name: str) -> None:
    url = plain_database.url
    payload = MESSAGE.format(name=json.dumps(name))
    run(
        url,
        f"INSERT INTO kombu_dead_letter (message_id, failures, reason, payload) VALUES (1, 1, 'r', '{payload}')",  # noqa: S608
        "INSERT INTO kombu_queue (name) VALUES ('mail')",
        f"INSERT INTO kombu_message (queue_id, payload) SELECT id, '{payload}' FROM kombu_queue",  # noqa: S608
    )
    model = operations.ReadModel(url)
    try:
        kept = scalar(url, "SELECT task_name FROM kombu_dead_letter")
        assert json.loads(f'"{kept}"') == name if len(json.dumps(name)) < 255 else kept == name
        (group,) = model.dead_letters().groups
        assert group.task == name
        assert {row.name for row in model.tasks().rows} == {name}, "waiting and dead"
        run(url, "UPDATE kombu_dead_letter SET task_name = NULL")
        (group,) = model.dead_letters().groups
        assert group.task == name, "a letter of before the column"
    finally:
        model.close()
