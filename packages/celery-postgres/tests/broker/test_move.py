"""Moving a queue to another database: nothing is lost, and nothing is copied twice, wherever the move is killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
from celery import Celery, chord, group

from celery_postgres.database.statements import statements
from environment.testkit.databases import rows
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

DEADLINE_S = 60
COUNT = "SELECT count(*) FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id WHERE q.name = :queue"
TASKS = """
    SELECT m.task_id FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id
    WHERE q.name = 'q' OR q.name LIKE 'celery\\_postgres.moving%' AND m.task_id IS NOT NULL
"""
MOVES = "SELECT count(*) FROM kombu_queue WHERE name LIKE 'celery\\_postgres.moving%'"
MANY = """
    INSERT INTO kombu_message (queue_id, payload, task_id)
    SELECT q.id, '{"properties": {}, "headers": {}}', 'task-' || n
    FROM kombu_queue AS q, generate_series(1, 3000) AS n WHERE q.name = 'q'
"""


@dataclass
class Move:
    """Two databases, and the command that moves the queue ``q`` from the first to the second."""

    source: str
    target: str
    app: Celery

    def start(self, *words: str, to: str = "TARGET") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "celery_postgres", "--json", "move", "q", "--to", to, *words],
            env=os.environ | {"CELERY_BROKER_URL": self.source, "TARGET": self.target, "SAME": self.source},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *words: str, to: str = "TARGET") -> dict[str, Any]:
        done = self.start(*words, to=to)
        out, errors = done.communicate(timeout=DEADLINE_S)
        assert done.returncode == 0, errors
        return dict(json.loads(out))

    def deletes(self) -> bool:
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 77"
        return bool(scalar(self.source, waits))

    def tasks(self) -> tuple[list[str], list[str]]:
        here, there = ([task for (task,) in rows(url, TASKS)] for url in (self.source, self.target))
        return here, there


def end(url: str, tasks: list[str]) -> None:
    """What the workers of a database do with these tasks."""
    with closing(psycopg2.connect(url)) as connection:
        connection.cursor().execute("DELETE FROM kombu_message WHERE task_id = ANY (%s)", (tasks,))
        connection.commit()


@pytest.fixture
def move(fresh: Any, plain_template: str) -> Iterator[Move]:
    with fresh(plain_template) as source, fresh(plain_template) as target:
        app = Celery("moving", broker=source.url, backend=source.url, set_as_current=False)
        app.conf.task_default_queue = "q"
        yield Move(source.url, target.url, app)
        app.close()


def test_everything_that_a_message_has_moves_with_it(move: Move) -> None:
    move.app.send_task("plain", ["text"], headers={"tenant_id": "2f0d4f0e-6f0a-4a84-9f3e-6c2a7a8b1c11"})
    move.app.send_task("later", countdown=600, priority=7)
    move.app.send_task("revoked", countdown=600).revoke()
    run(move.source, "UPDATE kombu_message SET failures = 3 WHERE priority = 7")
    kept = """
        SELECT payload, priority, task_id, tenant_id, enqueued_at, available_at, expires_at, failures, revoked
        FROM kombu_message WHERE task_id IS NOT NULL ORDER BY id
    """
    before = rows(move.source, kept)
    assert move.finish() == {"dry_run": True, "verb": "move", "count": 3}
    assert move.finish("--yes")["count"] == 3
    assert rows(move.target, kept) == before
    assert rows(move.source, kept) == []
    assert (scalar(move.source, MOVES), scalar(move.target, MOVES)) == (0, 0)
    assert move.finish("--yes")["count"] == 0


def test_every_column_of_a_message_is_moved_or_is_the_databases_own(move: Move) -> None:
    own = {"id", "queue_id", "visible", "consumer_id", "claimed_at", "fence", "timestamp", "version"}
    own |= {"unique_key", "unique_until", "unique_ends_at"}  # a move frees the keys
    inserted = re.search(r"INSERT INTO kombu_message \((.*?)\)", statements()["move_in"].direct, re.DOTALL)
    assert inserted is not None
    moved = {name.strip() for name in inserted[1].split(",")} - {"queue_id"}
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'kombu_message'::regclass AND attnum > 0"
    assert moved | own == {name for (name,) in rows(move.source, columns + " AND NOT attisdropped")}


def test_parts_of_chords_and_claimed_messages_stay(move: Move) -> None:
    chord([move.app.signature("part") for _ in range(3)], app=move.app)(move.app.signature("body"))
    group([move.app.signature("free") for _ in range(2)], app=move.app).apply_async()
    move.app.send_task("claimed")
    run(
        move.source,
        "UPDATE kombu_message SET visible = false, consumer_id = 5, claimed_at = now()"
        " WHERE id = (SELECT max(id) FROM kombu_message)",
    )
    done = move.finish("--yes")
    assert (done["count"], done["parts"], done["claimed"]) == (2, 3, 1)
    assert scalar(move.source, COUNT, queue="q") == 4
    assert scalar(move.target, COUNT, queue="q") == 2


def test_a_move_that_is_killed_between_its_two_commits_goes_on(move: Move) -> None:
    """The target's workers have ended some of those tasks before the move goes on: these do not come again."""
    move.app.send_task("first")
    run(move.source, "DELETE FROM kombu_message", MANY)
    everything = sorted(f"task-{n}" for n in range(1, 3001))
    with closing(psycopg2.connect(move.source)) as holder:
        # The move sets aside what nobody has locked first, copies it, and waits for this lock when it deletes.
        cursor = holder.cursor()
        cursor.execute("LOCK TABLE kombu_message IN SHARE MODE")
        killed = move.start("--yes")
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'kombu_message'::regclass"
        wait_until(lambda: scalar(move.source, waits), DEADLINE_S, "the move to wait for the first update")
        holder.rollback()
        wait_until(lambda: scalar(move.target, COUNT, queue="q"), DEADLINE_S, "the first batch to arrive")
        killed.kill()
        killed.communicate()
    here, there = move.tasks()
    assert set(here) | set(there) == set(everything)
    ended = there[:40]
    end(move.target, ended)
    move.finish("--yes")
    here, there = move.tasks()
    assert here == []
    assert sorted(there + ended) == everything


def test_a_move_that_is_killed_before_it_deletes_copies_nothing_twice(move: Move) -> None:
    move.app.send_task("first")
    run(move.source, "DELETE FROM kombu_message", MANY)
    # A delete waits here, after the target's commit and before the source's.
    run(
        move.source,
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(77); RETURN OLD; END $$
        """,
        "CREATE TRIGGER wait BEFORE DELETE ON kombu_message FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    ended: list[str] = []
    for _ in range(3):
        with closing(psycopg2.connect(move.source)) as holder:
            holder.cursor().execute("SELECT pg_advisory_xact_lock(77)")
            killed = move.start("--yes")
            wait_until(move.deletes, DEADLINE_S, "the move to delete")
            killed.kill()
            killed.communicate()
            rows(move.source, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND objid = 77")
        _, there = move.tasks()
        assert len(there) + len(ended) == 500
        ended += there[:100]
        end(move.target, there[:100])
    run(move.source, "DROP TRIGGER wait ON kombu_message")
    move.finish("--yes")
    here, there = move.tasks()
    assert here == []
    assert sorted(there + ended) == sorted(f"task-{n}" for n in range(1, 3001))


def test_a_message_that_ends_while_it_is_set_aside_is_not_counted(move: Move) -> None:
    for number in range(3):
        move.app.send_task(f"number {number}")
    run(
        move.source,
        """
        CREATE FUNCTION expire() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN DELETE FROM kombu_message WHERE id = (SELECT min(id) FROM moved) AND pg_trigger_depth() = 1; RETURN NULL;
        END $$
        """,
        "CREATE TRIGGER expire AFTER UPDATE ON kombu_message REFERENCING NEW TABLE AS moved"
        " FOR EACH STATEMENT EXECUTE FUNCTION expire()",
    )
    assert move.finish("--yes")["count"] == 2
    assert scalar(move.target, COUNT, queue="q") == 2


def test_an_unfinished_move_goes_nowhere_else(move: Move) -> None:
    move.app.send_task("first")
    aside = f"celery_postgres.moving.{hashlib.blake2b(b'q', digest_size=8).hexdigest()}.0 q"
    with closing(psycopg2.connect(move.source)) as connection:
        connection.cursor().execute("UPDATE kombu_queue SET name = %s WHERE name = 'q'", (aside,))
        connection.commit()
    refused = move.start("--yes")
    assert "a move of this queue to another database is unfinished" in refused.communicate(timeout=DEADLINE_S)[1]
    assert scalar(move.source, COUNT, queue=aside) == 1


def test_what_cannot_be_moved_is_one_line(move: Move) -> None:
    for words, to, text in (
        ([], "TARGET", "there is no queue 'q'"),
        ([], "NOWHERE", "it is the name of a variable of the environment with the URL in it"),
        ([], "postgresql://u:hunter2@h/d", "it is the name of a variable of the environment with the URL in it"),
    ):
        refused = move.start(*words, to=to)
        _, errors = refused.communicate(timeout=DEADLINE_S)
        assert refused.returncode in (1, 2)
        assert text in errors
        assert "hunter2" not in errors
    move.app.send_task("first")
    refused = move.start("--yes", to="SAME")
    assert "the queue is in this database already" in refused.communicate(timeout=DEADLINE_S)[1]
