"""A real worker runs what was published on each kind of connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import chain, chord, group, signature

from environment.testkit.callers import KINDS, calling
from environment.testkit.probe import DEADLINE_S, Probe, unique
from environment.testkit.tables import rows_of
from environment.waiting import wait_until


def test_a_worker_runs_the_tasks_of_every_kind_of_connection(probe: Probe) -> None:
    app = probe.app
    add = lambda *numbers: signature("probe.add", numbers, app=app)  # noqa: E731
    total = signature("probe.total", app=app)

    async def publish(kind: str) -> dict[str, Any]:
        async with calling(kind, probe.url) as caller:
            async with caller.publishing():
                probe.send("add", 1, 1)
            await caller.rollback()
        async with calling(kind, probe.url) as caller:
            async with caller.publishing():
                sent = {
                    "plain": (probe.send("add", 20, 22), 42),
                    "countdown": (app.send_task("probe.add", (1, 2), countdown=0.2, priority=9, expires=60), 3),
                    "chain": (chain(add(1, 2), add(3)).apply_async(), 6),
                    "group": (group(add(1, 2), add(3, 4)).apply_async(), [3, 7]),
                    "chord": (chord([add(1, 2), add(3, 4)], total).apply_async(), 10),
                }
            await caller.commit()
        return sent

    probe.start(pool="solo")
    expected = {kind: asyncio.run(publish(kind)) for kind in KINDS}
    for kind, sent in expected.items():
        found = {name: one.get(timeout=DEADLINE_S) for name, (one, _) in sent.items()}
        assert (kind, found) == (kind, {name: value for name, (_, value) in sent.items()})
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "the last acknowledgement")


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_a_sleeping_worker_finds_by_polling_what_notified_nobody(probe: Probe, kind: str) -> None:
    probe.start(pool="solo")

    async def publish() -> Any:
        async with calling(kind, probe.url) as caller:
            async with caller.publishing(notify=False):
                sent = probe.send("add", 20, 22)
            await caller.commit()
            return sent

    for _ in range(2):
        assert asyncio.run(publish()).get(timeout=DEADLINE_S) == 42


def test_a_task_that_goes_on_within_its_transaction_is_not_rolled_back_with_it(probe: Probe) -> None:
    worker = probe.start(pool="solo")
    for how in ("retry", "replace"):
        tag = unique(how)
        assert probe.send("again_within", tag, how).get(timeout=DEADLINE_S) == tag
        assert rows_of(probe.url, f"within-{tag}") == 0
    assert "Traceback" not in worker.log_text()
