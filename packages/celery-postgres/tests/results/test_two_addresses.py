"""A broker and a result backend that are one database under two addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_postgres.database import identity
from celery_postgres.results.recording import _ASKS_AGAIN_S
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_names", {})


@pytest.fixture
def other_url(plain_database: Any) -> str:
    """The same database and role, over TCP."""
    if plain_database.tcp_url is None:
        pytest.skip("the server is not ours")
    return str(plain_database.tcp_url)


def test_they_are_known_to_be_one_unless_the_roles_differ(
    make_app: Callable[..., Celery], plain_database: Any, other_url: str, fresh: Any
) -> None:
    app = make_app(plain_database.url)
    app.conf.broker_url = "sqla+" + other_url
    assert app.backend.shares_broker()
    assert identity.name_of(app.backend.dsn) == identity.name_of(other_url) != ()
    with fresh() as another:
        app = make_app(plain_database.url)
        app.conf.broker_url = "sqla+" + another.url
        assert not app.backend.shares_broker()
    identity._names.clear()
    app = make_app(plain_database.url)
    app.conf.broker_url = "sqla+" + other_url.replace("://", "://x", 1)
    assert not app.backend.shares_broker()


def test_one_that_cannot_be_reached_is_asked_for_later(
    make_app: Callable[..., Celery], plain_database: Any, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(plain_database.url)
    host = other_url.rpartition("@")[2].partition("/")[0]
    app.conf.broker_url = "sqla+" + other_url.replace(host, "127.0.0.1:1")
    assert not app.backend.shares_broker()
    app.conf.broker_url = "sqla+" + other_url
    assert not app.backend.shares_broker()  # not asked again yet
    app.backend._asks_again -= _ASKS_AGAIN_S
    assert app.backend.shares_broker()


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_result_and_the_end_of_its_message_are_one_transaction(
    make_probe: Callable[..., Probe], plain_database: Any, other_url: str, pool: str
) -> None:
    """The message goes with the result, and not by an ack of its own."""
    probe = make_probe(plain_database.url)
    run(
        probe.url,
        "CREATE TABLE ended (task_id text, number xid8)",
        "CREATE FUNCTION ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO ended VALUES (OLD.task_id, pg_current_xact_id()); RETURN NULL; END $$",
        "CREATE TRIGGER ended AFTER DELETE ON kombu_message FOR EACH ROW EXECUTE FUNCTION ended()",
    )
    conf = {"task_acks_late": True, "result_backend": "db+" + other_url}
    probe.start(pool=pool, concurrency=1, conf=conf)
    results = [probe.send("add", number, 1) for number in range(3)]
    assert [one.get(timeout=DEADLINE_S) for one in results] == [1, 2, 3]
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "the acks")
    together = "SELECT count(*) FROM ended JOIN celery_taskmeta AS meta USING (task_id) WHERE meta.xmin = number::xid"
    assert scalar(probe.url, together) == 3
