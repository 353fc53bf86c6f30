"""Unique keys against a model: publishes, transactions, claims, acks, deaths, retries and revokes, in any order."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from celery_postgres.database.callers import adapter_of
from celery_postgres.database.callers_connection import CallersConnection
from celery_postgres.database.dead_letter import DeadLetterKind, DeadLetterReason
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.publish_store import CallersPublishStore, PublishStore
from celery_postgres.database.session import Session
from celery_postgres.errors import DuplicateTaskError
from environment.testkit.stateful import run_machine

CONSUMER = 1
REASON = DeadLetterReason(DeadLetterKind.REJECTED)


@dataclass
class Task:
    """A message that is there.

    Attributes:
        fixed: no other call replaces it.
        holds: it holds its key.
        claim: how a consumer has claimed it; None while it waits.
        began: a consumer has claimed it before.
    """

    id: str
    key: str
    until: str
    body: str
    fixed: bool
    holds: bool = True
    claim: Claim | None = None
    began: bool = False


class UniqueKeys(RuleBasedStateMachine):
    """What the tables hold is what the model holds."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(self.url)
        self.messages, self.store = MessageStore(self.session), PublishStore(self.session)
        self.name = f"model-{secrets.token_hex(4)}"
        self.caller = psycopg2.connect(self.url)
        with self.caller, self.caller.cursor() as cursor:
            cursor.execute("INSERT INTO kombu_queue (name) VALUES (%s) RETURNING id", [self.name])
            (self.queue,) = cursor.fetchone()
        self.tasks: dict[str, Task] = {}

    # -- publishing

    def _envelope(
        self, task_id: str, key: str, until: str, conflict: str, retries: int = 0, part: bool = False
    ) -> tuple[Envelope, list[str]]:
        body = secrets.token_hex(4)
        headers: dict[str, Any] = {"id": task_id, "task": "t", "retries": retries, "unique_part": part}
        headers |= {"unique_key": key, "unique_until": until, "unique_conflict": conflict}
        message = {"body": body, "headers": headers, "properties": {}}
        envelope, found = Envelope.of(message, 0), list[str]()
        if envelope.unique is not None:
            envelope.unique.found = found.append
        return envelope, found

    def _expected(self, task: Task, conflict: str) -> str | None:
        """Publish to the model; returns whose key was met."""
        holder = next((one for one in self.tasks.values() if one.holds and one.key == task.key), None)
        if holder is None:
            self.tasks[task.id] = task
            return None
        if conflict == "replace" and holder.claim is None and not holder.fixed:
            holder.body, holder.until = task.body, task.until
            holder.holds = task.until == "done" or not holder.began
        return holder.id

    @rule(
        key=st.sampled_from("ab"),
        until=st.sampled_from(["started", "done"]),
        conflict=st.sampled_from(["return", "raise", "replace"]),
        part=st.booleans(),
        within=st.sampled_from(["alone", "commit", "rollback"]),
    )
    def publish(self, key: str, until: str, conflict: str, part: bool, within: str) -> None:
        task_id = secrets.token_hex(8)
        envelope, found = self._envelope(task_id, key, until, conflict, part=part)
        conflict = "raise" if part else conflict
        before = {one.id: replace(one) for one in self.tasks.values()}
        first = self._expected(Task(task_id, key, until, _body(envelope), part), conflict)
        fails = first is not None and (
            conflict == "raise"
            or (conflict == "replace" and (self.tasks[first].claim is not None or self.tasks[first].fixed))
        )
        raised = False
        store: Any = self.store
        if within != "alone":
            store = CallersPublishStore(CallersConnection(adapter_of(self.caller)))  # type: ignore[arg-type]
        try:
            assert store.publish(self.name, envelope)
        except DuplicateTaskError as error:
            raised = True
            assert error.task_id == first  # noqa: PT017
        (self.caller.commit if within == "commit" else self.caller.rollback)()
        assert raised is fails
        assert found == ([] if first is None else [first])
        if within == "rollback":
            self.tasks = before
        self.check()

    @precondition(lambda self: any(one.claim for one in self.tasks.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Publish a claimed task again, as Celery does, and acknowledge its first message."""
        task = data.draw(st.sampled_from([one for one in self.tasks.values() if one.claim]))
        envelope, found = self._envelope(task.id, task.key, task.until, "raise", retries=1)
        assert self.store.publish(self.name, envelope)
        assert found == []
        assert task.claim is not None
        self.messages.settle([task.claim])
        other = any(one.holds and one.key == task.key and one is not task for one in self.tasks.values())
        holds = task.until == "done" and not other
        self.tasks[task.id] = Task(task.id, task.key, task.until, _body(envelope), True, holds)
        self.check()

    # -- consuming

    @rule()
    def claim(self) -> None:
        found = self.messages.claim(CONSUMER, {self.queue: [0] * 10}, limit=1).messages
        waiting = [one for one in self.tasks.values() if one.claim is None]
        assert len(found) == min(1, len(waiting))
        for message in found:
            task = self.tasks[_id(message.payload)]
            assert task.claim is None
            assert _body_of(message.payload) == task.body
            task.claim, task.began = message.claim, True
            task.holds = task.holds and task.until == "done"
        self.check()

    @precondition(lambda self: any(one.claim for one in self.tasks.values()))
    @rule(data=st.data(), end=st.sampled_from(["ack", "bury", "release", "fail"]))
    def end(self, data: st.DataObject, end: str) -> None:
        task = data.draw(st.sampled_from([one for one in self.tasks.values() if one.claim]))
        assert task.claim is not None
        if end == "ack":
            self.messages.settle([task.claim])
        elif end == "bury":
            self.messages.bury([(task.claim, REASON)])
        else:
            self.messages.release([task.claim], 100, failed=end == "fail")
            task.claim = None
            return self.check()
        del self.tasks[task.id]
        return self.check()

    @precondition(lambda self: any(one.claim is None for one in self.tasks.values()))
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([one for one in self.tasks.values() if one.claim is None]))
        self.messages.mark_revoked([task.id])
        task.holds = False
        self.check()

    def check(self) -> None:
        with self.caller, self.caller.cursor() as cursor:
            cursor.execute(
                "SELECT task_id, payload, visible,"
                " unique_until > 0 AND NOT revoked AND (unique_until %% 2 = 0 OR fence = 0)"
                " FROM kombu_message WHERE queue_id = %s",
                [self.queue],
            )
            rows = {task_id: (_body_of(payload), visible, bool(holds)) for task_id, payload, visible, holds in cursor}
        assert rows == {one.id: (one.body, one.claim is None, one.holds) for one in self.tasks.values()}

    def teardown(self) -> None:
        self.session.script(f"DELETE FROM kombu_message WHERE queue_id = {int(self.queue)}")  # noqa: S608
        self.session.close()
        self.caller.close()


def _body(envelope: Envelope) -> str:
    return _body_of(envelope.payload)


def _body_of(payload: str) -> str:
    return str(json.loads(payload)["body"])


def _id(payload: str) -> str:
    return str(json.loads(payload)["headers"]["id"])


def test_the_tables_hold_what_the_model_holds(module_database: Any) -> None:
    run_machine(UniqueKeys, examples=12, steps=30, given={"url": module_database.url})
