"""A fleet with several databases: what is published is in the database of its queue, and results are found in all."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import psycopg2
import pytest
from celery import Celery, chord, group
from celery.exceptions import TimeoutError as NotInTime

from celery_postgres import Databases, NotPublishedError, bulk, publishing_on
from celery_postgres.broker import placing
from celery_postgres.broker.collecting import collected
from celery_postgres.broker.destinations import AtOnce, publish_declaring
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.result_store import Outcome
from celery_postgres.errors import OptionError
from celery_postgres.results import listener as listening
from celery_postgres.results.several import Listeners
from environment.testkit.databases import rows
from environment.testkit.tables import scalar
from environment.waiting import wait_until

QUEUES = "SELECT string_agg(name, ' ' ORDER BY name) FROM kombu_queue WHERE name ~ '^(eu|us|free)'"
MESSAGES = (
    "SELECT count(*) FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id WHERE q.name ~ '^(eu|us)'"
)
REVOKED = "SELECT count(*) FROM kombu_message WHERE revoked"
CHORDS = "SELECT string_agg(size::text, ' ') FROM celery_chord"
DEADLINE_S = 30


def make_app(url: str, databases: Databases) -> Celery:
    app = Celery("several", broker=url, backend=url, set_as_current=False)
    app.conf.broker_transport_options = {"databases": databases}
    app.conf.task_routes = {"eu.*": {"queue": "eu.q"}, "us.*": {"queue": "us.q"}, "free": {"queue": "free"}}
    return app


@dataclass
class Fleet:
    """Two databases, an application at each, and how to look into them."""

    eu_url: str
    us_url: str
    eu: Celery
    us: Celery

    def count(self, statement: str) -> tuple[Any, Any]:
        return scalar(self.eu_url, statement), scalar(self.us_url, statement)

    def both_wait_for(self, task_id: str) -> bool:
        return [
            row
            for url in (self.eu_url, self.us_url)
            for row in rows(url, "SELECT 1 FROM celery_waiter WHERE task_id = :task", task=task_id)
        ] == [(1,), (1,)]


@pytest.fixture
def fleet(installed: None, fresh: Any, plain_template: str) -> Iterator[Fleet]:
    with fresh(plain_template) as eu, fresh(plain_template) as us:
        databases = Databases({"eu": eu.url, "us": us.url}, queues={"eu.*": "eu", "us.*": "us"})
        apps = [make_app(url, databases) for url in (eu.url, us.url)]
        yield Fleet(eu.url, us.url, *apps)
        for app in apps:
            app.close()


def test_a_message_is_in_the_database_of_its_queue(fleet: Fleet) -> None:
    fleet.eu.send_task("us.task")
    fleet.eu.send_task("eu.task")
    fleet.us.send_task("eu.task")
    assert fleet.count(QUEUES) == ("eu.q", "us.q")
    assert fleet.count(MESSAGES) == (2, 1)


def test_a_queue_that_no_pattern_names_is_the_publishers_own(fleet: Fleet) -> None:
    fleet.us.send_task("free")
    assert fleet.count(QUEUES) == (None, "free")


def test_a_bulk_reaches_both_databases(fleet: Fleet) -> None:
    with fleet.eu.producer_or_acquire() as producer, bulk(producer):
        for number in range(6):
            fleet.eu.send_task("us.task" if number % 2 else "eu.task", producer=producer)
    assert fleet.count(MESSAGES) == (3, 3)


def test_a_transaction_takes_no_message_of_another_database(fleet: Fleet) -> None:
    with closing(psycopg2.connect(fleet.eu_url)) as connection:
        with publishing_on(connection):
            fleet.eu.send_task("eu.task")
            with pytest.raises(
                NotPublishedError, match=r"'us.q' is in the database us, .* publish when it has committed"
            ):
                fleet.eu.send_task("us.task")
        connection.commit()
    assert fleet.count(MESSAGES) == (1, 0)


def test_a_worker_consumes_from_its_own_database_alone(fleet: Fleet) -> None:
    with fleet.eu.connection_for_read() as connection, pytest.raises(OptionError, match="the broker_url of us"):
        connection.SimpleQueue("us.q").consumer.consume()


def test_a_result_is_found_where_it_was_stored(fleet: Fleet) -> None:
    for app, other in ((fleet.eu, fleet.us), (fleet.us, fleet.eu)):
        result = other.AsyncResult(f"of {app.conf.broker_url[-9:]}")
        assert result.state == "PENDING"
        app.backend.store_result(result.id, "value", "SUCCESS")
        assert result.get(timeout=DEADLINE_S) == "value"
        assert other.AsyncResult(result.id).state == "SUCCESS"
        other.AsyncResult(result.id).forget()
        assert app.AsyncResult(result.id).state == "PENDING"


def test_one_that_waits_is_told_by_either_database(fleet: Fleet) -> None:
    ids = {"in eu": fleet.eu, "in us": fleet.us}
    found: dict[str, Any] = {}

    def wait() -> None:
        results = [fleet.eu.AsyncResult(task_id) for task_id in ids]
        for result in results:
            result.then(lambda one: found.update({one.id: one.result}))
            result.get(timeout=DEADLINE_S)

    waiting = threading.Thread(target=wait)
    waiting.start()
    for number, (task_id, app) in enumerate(ids.items()):
        wait_until(partial(fleet.both_wait_for, task_id), DEADLINE_S, "a waiter in each")
        app.backend.store_result(task_id, number, "SUCCESS")
    waiting.join(DEADLINE_S)
    assert found == {"in eu": 0, "in us": 1}


@pytest.fixture
def half(installed: None, fresh: Any, plain_template: str) -> Iterator[tuple[str, Celery]]:
    """The database ``eu`` of a fleet whose database ``us`` cannot be reached."""
    with fresh(plain_template) as eu:
        nowhere = "postgresql://u:hunter2@127.0.0.1:1/gone"
        app = make_app(eu.url, Databases({"eu": eu.url, "us": nowhere}, queues={"eu.*": "eu", "us.*": "us"}))
        yield eu.url, app
        app.close()


def test_a_database_that_cannot_be_reached_delays_no_other(half: tuple[str, Celery]) -> None:
    url, app = half
    app.backend.store_result("here", 7, "SUCCESS")
    assert app.AsyncResult("here").get(timeout=DEADLINE_S) == 7
    app.send_task("eu.task")
    chord([app.signature("eu.part", immutable=True)], app=app)(app.signature("eu.body"))
    assert scalar(url, CHORDS) == "1"


def test_a_revoke_marks_its_own_database_first(half: tuple[str, Celery]) -> None:
    url, app = half
    bind = "INSERT INTO kombu_queue (name) VALUES ('eu.workers')"
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(bind)
        connection.commit()
    with app.connection_for_write() as connection:
        connection.default_channel.exchange_declare("celery.pidbox", "fanout")
        connection.default_channel.queue_bind("eu.workers", "celery.pidbox")
    waiting = app.send_task("eu.task", countdown=600)
    with pytest.raises(NotPublishedError, match="the revoke did not reach the database us: ") as refused:
        waiting.revoke()
    assert "hunter2" not in str(refused.value)
    assert "127.0.0.1" not in str(refused.value)
    assert scalar(url, REVOKED) == 1
    told = "SELECT count(*) FROM kombu_message m JOIN kombu_queue q ON q.id = m.queue_id WHERE q.name = 'eu.workers'"
    assert scalar(url, told) == 1


def test_an_error_names_the_database(half: tuple[str, Celery], monkeypatch: pytest.MonkeyPatch) -> None:
    _, app = half
    databases = app.conf.broker_transport_options["databases"]
    with pytest.raises(psycopg2.OperationalError, match="the database us: "):
        _ = make_app(databases.url("us"), databases).AsyncResult("unknown").state
    with pytest.raises(psycopg2.OperationalError, match="the database us: "):
        _ = app.AsyncResult("unknown").state
    with pytest.raises(NotInTime):
        app.AsyncResult("unknown").get(timeout=1)
    (us,) = app.backend.elsewhere.sessions()
    with pytest.raises(psycopg2.OperationalError) as refused:
        us.connect()
    told: list[str] = []
    monkeypatch.setattr(listening.logger, "warning", lambda text, *values: told.append(text % values))
    waiting = listening.Listener(us)  # its thread does not run
    waiting._awaited["unknown"] = listening._Awaited(1)
    waiting.log_failure(refused.value, 1.0, first=True)
    assert [one[:45] for one in told] == ["Cannot wait for results (the database us: con"]
    assert "hunter2" not in told[0]


def test_what_no_queue_takes_is_in_the_database_of_the_deadletter_queue(fleet: Fleet) -> None:
    with fleet.eu.connection_for_write() as connection:
        channel = connection.default_channel
        channel.deadletter_queue = "us.lost"
        with connection.Producer() as producer:
            producer.publish({}, exchange="nowhere", routing_key="none")
            assert fleet.count(MESSAGES) == (0, 1)
            with bulk(producer):
                producer.publish({}, exchange="nowhere", routing_key="none")
            assert fleet.count(MESSAGES) == (0, 2)
            with collected() as sent:
                producer.publish({}, exchange="nowhere", routing_key="none")
            assert sent.messages == []
            assert fleet.count(MESSAGES) == (0, 3)
            with (
                closing(psycopg2.connect(fleet.eu_url)) as callers,
                publishing_on(callers),
                pytest.raises(NotPublishedError, match=r"'us.lost' is in the database us"),
            ):
                producer.publish({}, exchange="nowhere", routing_key="none")


def test_a_queue_that_stays_missing_is_an_error() -> None:
    declared: list[str] = []
    with pytest.raises(NotPublishedError, match="'q' is missing although it was declared"):
        publish_declaring(lambda: ["q"], declared.append)
    assert 0 < len(declared) < 10
    runner = cast(Any, SimpleNamespace(run=lambda name, **_: []))
    envelope = Envelope("{}", 0, None, None, None, None, "yes")
    with pytest.raises(NotPublishedError, match="'q' is missing although it was declared"):
        AtOnce(runner, declared.append).to_queue("q", envelope)


def test_the_queues_that_a_connection_remembers_are_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "GROUPS", 10)
    with fleet.eu.connection_for_write() as connection:
        one = connection.transport.placing
        assert [one.elsewhere(f"{name}.{n}") for n in range(40) for name in ("us", "eu")] == ["us", None] * 40
        assert len(one._names) == 10


def test_a_chord_is_counted_where_its_parts_are(fleet: Fleet) -> None:
    parts = [fleet.eu.signature("us.part", immutable=True) for _ in range(3)]
    chord(parts, app=fleet.eu)(fleet.eu.signature("eu.body"))
    assert fleet.count(MESSAGES) == (0, 3)
    assert fleet.count(CHORDS) == (None, "3")


def test_a_chord_of_one_task_is_counted_where_that_is(fleet: Fleet) -> None:
    chord([fleet.eu.signature("us.part", immutable=True)], app=fleet.eu)(fleet.eu.signature("eu.body"))
    assert fleet.count(CHORDS) == (None, "1")
    chord([fleet.eu.signature("eu.part", immutable=True)], app=fleet.eu)(fleet.eu.signature("eu.body"))
    assert fleet.count(CHORDS) == ("1", "1")


def test_a_chord_of_one_chain_is_counted_wherever_that_ends(fleet: Fleet) -> None:
    one = fleet.eu.signature("eu.part", immutable=True) | fleet.eu.signature("us.part", immutable=True)
    chord([one], app=fleet.eu)(fleet.eu.signature("eu.body"))
    assert fleet.count(CHORDS) == ("1", "1")


def test_a_chord_in_two_databases_is_refused(fleet: Fleet) -> None:
    for names in (("us.part", "eu.part", "eu.part"), ("eu.part", "eu.part", "us.part")):
        parts = [fleet.eu.signature(name, immutable=True) for name in names]
        with pytest.raises(NotPublishedError, match="the parts of a chord are counted in one database"):
            chord(parts, app=fleet.eu)(fleet.eu.signature("eu.body"))
    assert fleet.count(MESSAGES) == (2, 1)  # nothing after the first part that is elsewhere
    group([fleet.eu.signature("us.part"), fleet.eu.signature("eu.part")], app=fleet.eu).apply_async()


def test_a_revoke_reaches_all_databases(fleet: Fleet) -> None:
    fleet.eu.send_task("us.task", countdown=600).revoke()
    fleet.eu.send_task("eu.task", countdown=600).revoke()
    assert fleet.count(REVOKED) == (1, 1)


def test_a_key_stays_where_it_is() -> None:
    urls = {name: f"postgresql://u@{name}/d" for name in ("a", "b", "c", "d")}
    three = Databases({name: urls[name] for name in ("a", "b", "c")}, keys={"pinned": "c"})
    four = Databases(urls, keys={"pinned": "c"})
    keys = [f"tenant {number}" for number in range(1000)]
    moved = [key for key in keys if three.of_key(key) != four.of_key(key)]
    assert {four.of_key(key) for key in moved} == {"d"}
    assert 200 < len(moved) < 300
    assert all(sum(three.of_key(key) == name for key in keys) > 280 for name in three.names)
    assert three.of_key("pinned") == four.of_key("pinned") == "c"
    assert [three.of_key(key) for key in keys[:6]] == ["a", "c", "c", "a", "b", "a"]


def test_addresses_are_shown_nowhere() -> None:
    databases = Databases({"eu": "postgresql://u:hunter2@h/d"}, queues={"*": "eu"})
    app = Celery(set_as_current=False)
    app.conf.broker_transport_options = {"databases": databases}
    assert "hunter2" not in repr(databases)
    assert "hunter2" not in app.conf.humanize()
    assert "hunter2" not in repr(app.conf.table(with_defaults=True, censored=True))


def test_a_task_that_ends_at_once_is_watched_nowhere() -> None:
    """In the first database, before the second one is asked to watch it."""
    outcome = Outcome("ended", "SUCCESS", b"1", None)

    class Watching:
        def __init__(self, *outcomes: Outcome) -> None:
            self.outcomes = outcomes
            self.tasks: set[str] = set()

        def watch(self, task_ids: Iterable[str], sink: Any) -> None:
            self.tasks.update(task_ids)
            for one in self.outcomes:
                self.tasks.remove(one.task_id)
                sink(one)

        def unwatch(self, task_ids: Iterable[str], sink: Any) -> None:
            self.tasks.difference_update(task_ids)

    first, second = Watching(outcome), Watching()
    seen: list[Any] = []
    Listeners(cast(Any, [first, second])).watch(["ended", "other"], seen.append)
    assert seen == [outcome]
    assert first.tasks == second.tasks == {"other"}


def with_addresses(app: Celery) -> Celery:
    """What someone may write in the place of a `Databases`."""
    app.conf.broker_transport_options = {"databases": {"eu": "postgresql://u:hunter2@h/d"}}
    return app


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Databases({}), "names no database"),
        (lambda: Databases({"us": " "}), "the address of the database us is empty: write it as"),
        (lambda: Databases({"us": "postgresql://u:hunter2@h:notaport/x"}), r"the database us .* has a port that is no"),
        (lambda: Databases({"us": "host=h port=70000 password=hunter2"}), "the database us has a port that is no"),
        (lambda: Databases({"eu": "postgresql://u:one/hunter2@h/d"}), "the address of the database eu"),
        (
            lambda: Databases({"eu": "postgresql://h/d"}, queues={"us.*": "us"}),
            "'us.\\*' is in the database 'us', which is",
        ),
        (lambda: Databases({"eu": "postgresql://h/d"}).url("us"), "there is no database 'us': there are eu"),
        (
            lambda: with_addresses(Celery(backend="db+postgresql://h/d", set_as_current=False)).backend,
            "is a celery_postgres.Databases",
        ),
        (
            lambda: with_addresses(Celery(broker="sqla+postgresql://h/d", set_as_current=False)).connection().transport,
            "is a celery_postgres.Databases",
        ),
    ],
)
def test_a_typing_error_is_one_line(make: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text) as refused:
        make()
    assert "hunter2" not in str(refused.value)
