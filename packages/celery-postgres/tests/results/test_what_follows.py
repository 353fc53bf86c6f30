"""What follows a task goes to a database that is away: that is no failure of the task, and none of its message."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from celery import chain, chord, group, signature

from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe, ProbeWorker, unique
from environment.testkit.proxy import Proxy
from environment.testkit.tables import dead_letters, rows_of
from environment.waiting import wait_until

POOLS = ["solo", "threads", "prefork"]
SENT = "SELECT task_id FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id WHERE q.name = 'us.q'"


@dataclass
class Fleet:
    """A worker at a database, and another database behind a proxy."""

    here: Probe
    there: str
    proxy: Proxy

    def start(self, pool: str, patience_s: float | None = None) -> ProbeWorker:
        """One failure would make a dead letter."""
        urls = {"eu": self.here.url, "us": self.proxy.url(self.there)}
        env = {"PROBE_DATABASES": json.dumps(urls)}
        if patience_s is not None:
            env["PROBE_PATIENCE_S"] = str(patience_s)
        conf = {"broker_transport_options": {"max_failures": 1}}
        worker = self.here.start(pool=pool, queues=["eu.q"], conf=conf, env=env, concurrency=6)
        self.proxy.refuse()
        self.proxy.cut()
        return worker

    def sig(self, task: str, *arguments: Any, **options: Any) -> Any:
        return signature(f"probe.{task}", arguments, app=self.here.app, **options)

    def all_kinds(self, tag: str, gate: str | None = None) -> tuple[list[Any], list[str]]:
        """Tasks that another task follows, in each way that Celery has. Returns their results, and what follows."""
        there = {kind: f"{kind} of {tag}" for kind in ("chain", "link", "group", "errback")}
        after = {
            kind: self.sig("errback_old" if kind == "errback" else "echo", queue="us.q", task_id=there[kind],
                           kwargs={"tag": tag} if kind == "errback" else {})
            for kind in there
        }  # fmt: skip
        eu: dict[str, Any] = {"queue": "eu.q"}
        linked = [self.here.send("run_late", tag, link=one, **eu) for one in (after["link"], group(after["group"]))]
        chained = chain(self.sig("run_late", tag, **eu), after["chain"]).apply_async()
        failed = self.here.send("fail", tag, link_error=after["errback"], **eu)
        others = [self.here.send(task, tag, "us.q", **eu) for task in ("retry_to", "replace_to")]
        return [chained.parent, *linked, failed], [*there.values(), *(one.id for one in others)]

    def all_are_sent(self, ids: list[str]) -> None:
        wait_until(lambda: {one for (one,) in rows(self.there, SENT)} == set(ids), DEADLINE_S, "what follows")
        wait_until(lambda: rows_of(self.here.url) == 0, DEADLINE_S, "the messages to be acknowledged")
        assert dead_letters(self.here.url) == 0


@pytest.fixture
def fleet(make_probe: Callable[..., Probe], fresh: Any, plain_template: str, proxy: Proxy) -> Any:
    with fresh(plain_template) as eu, fresh(plain_template) as us:
        yield Fleet(make_probe(eu.url), us.tcp_url, proxy)


@pytest.mark.parametrize("pool", POOLS)
def test_what_follows_a_task_is_sent_when_its_database_is_back(fleet: Fleet, pool: str) -> None:
    worker, tag = fleet.start(pool), unique("tag")
    results, follow = fleet.all_kinds(tag)
    early = fleet.here.send("run", tag, link=fleet.sig("echo", queue="us.q", task_id="early"), queue="eu.q")
    wait_until(lambda: "Cannot send what follows a task (" in worker.log_text(), DEADLINE_S, "the first try")
    fleet.proxy.refuse(False)
    fleet.all_are_sent([*follow, "early"])
    wait_until(lambda: all(one.ready() for one in [*results, early]), DEADLINE_S, "the results")
    assert [one.state for one in [*results, early]] == ["SUCCESS"] * 3 + ["FAILURE", "SUCCESS"]
    assert len(fleet.here.notes("start", tag)) == 7, "each ran once"


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_runs_again_after_a_pause_when_patience_is_over(fleet: Fleet, pool: str) -> None:
    worker, tag = fleet.start(pool, patience_s=0), unique("tag")
    results, follow = fleet.all_kinds(tag)
    fleet.here.wait_for("start", tag, 6 + 6 + 1)  # each for the second time, and one for the third
    assert rows_of(fleet.here.url) == 6
    assert rows(fleet.here.url, "SELECT DISTINCT failures FROM kombu_message") == [(0,)]
    fleet.proxy.refuse(False)
    fleet.all_are_sent(follow)
    wait_until(lambda: all(one.ready() for one in results), DEADLINE_S, "the results")
    assert [one.state for one in results] == ["SUCCESS"] * 3 + ["FAILURE"]
    starts = sorted(note["at"] for note in fleet.here.notes("start", tag))
    assert starts[-1] - starts[0] > 1.5, "two pauses, the first of 0.75 s at least"
    assert "becomes a dead letter" not in worker.log_text()


def test_the_body_of_a_chord_is_sent_when_its_database_is_back(fleet: Fleet) -> None:
    worker, body = fleet.start("threads"), fleet.sig("total", queue="us.q", task_id="body")
    chord([fleet.sig("add", one, queue="eu.q") for one in range(3)], body).apply_async()
    wait_until(lambda: "Could not send the body of a chord (" in worker.log_text(), DEADLINE_S, "the first try")
    assert "Traceback" not in worker.log_text()
    fleet.proxy.refuse(False)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_the_worker_logs_a_message_that_has_failed_too_often(probe: Probe, pool: str) -> None:
    worker = probe.start(pool=pool, conf={"broker_transport_options": {"max_failures": 2}})
    probe.send("reject", "tag", True, 9) if pool == "threads" else probe.send("die", "tag", 9)
    line = "of queue celery becomes a dead letter: failed 2 times"
    wait_until(lambda: line in worker.log_text(), DEADLINE_S, "the log line")
    assert dead_letters(probe.url, "failed 2 times") == 1
