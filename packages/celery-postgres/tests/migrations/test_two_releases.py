"""The release before numbered migrations and this one, on one database, while it is migrated up and down."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_postgres.database.migrations import NEWEST, check, migrate, version
from environment.testkit import old_release
from environment.testkit.catalogue import catalogue, difference
from environment.testkit.databases import run
from environment.testkit.probe import Probe, broker
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until

pytestmark = pytest.mark.long

DEADLINE_S = 90
#: Publishes until its standard input ends, and prints how many it has sent.
PUBLISHER = """
import sys, threading
import celery_postgres
from celery import Celery
celery_postgres.install()
app = Celery("old", broker=sys.argv[1], backend=sys.argv[2])
ended, sent = threading.Event(), 0
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.005):
    app.send_task("probe.run_late", [f"old-{sent}"])
    sent += 1
print(sent)
"""


@pytest.fixture(scope="module", autouse=True)
def _installed(installed: None) -> None:
    """The client of this process has called ``install()``."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the release before."""
    return old_release.unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def url(fresh: Any, old: Path) -> Iterator[str]:
    """A database as the release before makes it."""
    with fresh() as database:
        old_release.create_schema(old, database.url)
        yield database.url


def test_a_database_of_the_release_before_is_adopted(url: str, plain_database: Any, old: Path) -> None:
    assert version(url) is None
    assert migrate(url) == NEWEST
    assert difference(catalogue(url), catalogue(plain_database.url)) == []
    old_release.create_schema(old, url)
    assert check(url).current
    # Its index by task has two successors, and it makes it again.
    run(url, "DROP INDEX ix_kombu_message_task")
    assert difference(catalogue(url), catalogue(plain_database.url)) == []


def test_both_work_on_while_it_is_migrated(url: str, old: Path, make_probe: Callable[..., Probe]) -> None:
    """The release before goes on all the while, also down to 5. This one begins when the schema is its own, and waits
    while it is not."""
    before, now = make_probe(url), make_probe(url)
    before.start(pool="threads", command=old_release.worker(old))
    ended, sent = threading.Event(), 0
    current = threading.Lock()

    def publish() -> None:
        nonlocal sent
        while not ended.wait(0.005):
            with current:
                now.send("run_late", f"new-{sent}")
            sent += 1

    def ran() -> int:
        return len(before.notes("end")) + len(now.notes("end"))

    def more(count: int = 60) -> None:
        reached = ran() + count
        wait_until(lambda: ran() >= reached, DEADLINE_S, f"{count} more tasks", interval_s=0.2)

    publishing = threading.Thread(target=publish)
    words = [*old_release.python(old), "-c", PUBLISHER, broker(url, "old-publisher"), f"db+{url}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as publisher:
        try:
            more()
            assert migrate(url) == NEWEST
            now.start(pool="threads")
            publishing.start()
            more()
            for _ in range(3):
                with current:
                    assert migrate(url, 5) == 5
                    more()
                    assert migrate(url) == NEWEST
                more()
            old_release.create_schema(old, url)  # a start of the old release, which does it each time
            more()
            while min(len(before.notes("end")), len(now.notes("end"))) <= 50:  # one of them may have come late
                more()
        finally:
            ended.set()
            if publishing.ident is not None:
                publishing.join(DEADLINE_S)
            of_old = int(publisher.communicate(timeout=DEADLINE_S)[0])
    tags = [*(f"old-{number}" for number in range(of_old)), *(f"new-{number}" for number in range(sent))]
    wait_until(lambda: ran() >= len(tags), DEADLINE_S, f"{len(tags)} tasks to end", interval_s=0.2)
    assert min(of_old, sent, len(before.notes("end")), len(now.notes("end"))) > 50
    for event in ("start", "end"):
        counts = Counter(note["tag"] for note in [*before.notes(event), *now.notes(event)])
        assert counts == Counter(tags), event
    wait_until(lambda: rows_of(url) == 0, DEADLINE_S, "every message to be acknowledged")
    assert scalar(url, "SELECT count(*) FROM kombu_dead_letter") == 0
    assert scalar(url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'") == len(tags)
    assert check(url).current


def test_both_work_on_a_fair_queue(url: str, old: Path, make_probe: Callable[..., Probe]) -> None:
    """The release before knows no keys: it publishes without, and claims what has one by its time. Nothing is lost."""
    before, now = make_probe(url), make_probe(url)
    assert migrate(url) == NEWEST
    before.start(pool="threads", command=old_release.worker(old))
    now.start(pool="threads")
    run(
        url, "INSERT INTO kombu_queue (name, fair) VALUES ('celery', true) ON CONFLICT (name) DO UPDATE SET fair = true"
    )
    words = [*old_release.python(old), "-c", PUBLISHER, broker(url, "old-publisher"), f"db+{url}"]

    def ended(probe: Probe, of: str) -> Counter[str]:
        return Counter(note["tag"] for note in probe.notes("end", f"{of}-*"))

    def each_ran_both() -> bool:
        return all(len(ended(probe, of)) > 20 for probe in (before, now) for of in ("old", "new"))

    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as publisher:
        sent = 0
        while not each_ran_both():
            assert sent < 5000, "one of the workers leaves what the other release has published"
            for _ in range(20):
                options = {"countdown": 0.3} if sent % 10 == 0 else {}
                now.send("run_late", f"new-{sent}", headers={"flow_key": f"key-{sent % 7}"}, **options)
                sent += 1
        of_old = int(publisher.communicate(timeout=DEADLINE_S)[0])
    tags = [*(f"old-{number}" for number in range(of_old)), *(f"new-{number}" for number in range(sent))]
    wait_until(lambda: rows_of(url) == 0, DEADLINE_S, "every message to be acknowledged")
    assert sum((ended(probe, of) for probe in (before, now) for of in ("old", "new")), Counter()) == Counter(tags)
    assert scalar(url, "SELECT count(*) FROM kombu_dead_letter") == 0
