"""The parts that need no database."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from app.core.dsn import PostgresDSN
from celery_postgres.broker.topic import pattern
from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.early_acks import EarlyAcks
from celery_postgres.consumer.failure_detector import FailureDetector
from celery_postgres.consumer.pending_acks import PendingAcks
from celery_postgres.consumer.polling import PollingBackoff
from celery_postgres.database import watchdog
from celery_postgres.database.address import is_postgresql, libpq_dsn, masked, parsed
from celery_postgres.database.consumer_store import Other
from celery_postgres.database.envelope import Envelope, is_due
from celery_postgres.database.message_store import new_fence
from celery_postgres.database.payload import decode
from celery_postgres.database.statements import statements


class Clock:
    """Stands for `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("failure_detector", "batch_size", "polling", "early_acks", "pending_acks"):
        monkeypatch.setattr(f"celery_postgres.consumer.{module}.time", clock)
    return clock


# -- topics


@pytest.mark.parametrize(
    ("key", "matching", "other"),
    [
        ("#", ["", "a", "a.b"], []),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
        ("#.b", ["b", "a.b", "a.c.b"], ["ab", "b.a"]),
        ("a.#.b", ["a.b", "a.c.b", "a.c.d.b"], ["ab", "a", "b", "a.bb"]),
        ("a.*", ["a.b"], ["a", "a.b.c"]),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
        ("a.#.#", ["a", "a.b.c"], ["b"]),
        ("a+b.(c", ["a+b.(c"], ["aab.(c"]),
        ("worker.heartbeat", ["worker.heartbeat"], ["workerxheartbeat"]),
    ],
)
def test_topic_patterns(key: str, matching: list[str], other: list[str]) -> None:
    expression = re.compile(pattern(key))
    assert [one for one in matching if not expression.match(one)] == []
    assert [one for one in other if expression.match(one)] == []


# -- addresses


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://u:s3cret@h/db", "s3cret"),
        ("postgresql://u:s3cret@/db?host=h1,h2&port=1,2", "s3cret"),
        ("postgresql:///db?user=u&password=s3cret&host=h", "s3cret"),
        ("postgresql://u:s3c%40ret@h1:1,h2:2/db", "s3c"),
    ],
)
def test_a_shown_address_has_no_password(url: str, secret: str) -> None:
    assert secret not in masked(url)
    assert "**" in masked(url)


@pytest.mark.parametrize("url", ["postgresql://h/d", "sqla+postgresql://h/d", "sqla+postgresql+psycopg2://h/d"])
def test_postgresql_is_recognised(url: str) -> None:
    assert is_postgresql(url)


@pytest.mark.parametrize("url", ["sqla+sqlite:///x", "redis://h", "sqla+mysql://h/d", None, "h"])
def test_and_nothing_else_is(url: str | None) -> None:
    assert not is_postgresql(url)


def test_every_libpq_parameter_is_kept() -> None:
    url = "postgresql://u:p%40@/d?host=h1,h2&port=1,2&sslmode=require&target_session_attrs=read-write"
    dsn = libpq_dsn(SimpleNamespace(hostname=url))
    for part in ("host=h1,h2", "port=1,2", "sslmode=require", "target_session_attrs=read-write", "password=p@"):
        assert part in dsn


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("?ssl=disable", {"sslmode": "disable"}),
        ("?ssl=true&statement_cache_size=0&application_name=x", {"sslmode": "require", "application_name": "x"}),
        ("?ssl=Verify-Full&sslmode=verify-full", {"sslmode": "verify-full"}),
        ("?prepared_statement_cache_size=0", {}),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "asyncpg"])
def test_an_address_for_asyncpg_is_understood(scheme: str, query: str, expected: dict[str, str]) -> None:
    """As the application understands it in DATABASE_URL."""
    found = parse_dsn(parsed(f"{scheme}://u:p%40@h/d{query}", "broker"))
    assert found == {"user": "u", "password": "p@", "host": "h", "dbname": "d"} | expected
    assert found == parse_dsn(PostgresDSN.parse(f"postgresql+asyncpg://u:p%40@h/d{query}").libpq())


@pytest.mark.parametrize("query", ["ssl=disable&sslmode=require", "command_timeout=hunter2@h/d", "ssl=on&nonsense=1"])
def test_what_an_address_for_asyncpg_cannot_say_is_refused_and_not_quoted(query: str) -> None:
    with pytest.raises(ValueError, match=r"^the broker URL ") as caught:
        parsed(f"postgresql+asyncpg://u:hunter2@h/d?{query}", "broker")
    assert "hunter2" not in str(caught.value)


def test_an_address_that_libpq_refuses_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="libpq") as caught:
        libpq_dsn(SimpleNamespace(hostname="postgresql://u:s3cret@h/d?nonsense=1"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("hostname", ["postgresql://u@h/d", "h"])
def test_a_password_that_is_a_function_is_refused_instead_of_sent_as_text(hostname: str) -> None:
    """Kombu 5.7 takes one, for tokens that expire."""
    client = SimpleNamespace(hostname=hostname, port=1, userid="u", password=lambda: "s3cret", virtual_host="d")
    with pytest.raises(ValueError, match=r"the broker's password is a function.*passfile") as refused:
        libpq_dsn(client)
    assert "s3cret" not in str(refused.value)


# -- messages


def message(**headers: Any) -> dict[str, Any]:
    return {"body": "e30=", "headers": headers, "properties": {"delivery_info": {}}}


def test_celerys_own_expiry_is_no_ttl() -> None:
    task = message(id="x", expires="2030-01-01T00:00:00+00:00")
    task["properties"]["expiration"] = "200"
    assert Envelope.of(task, 0).ttl_ms is None
    del task["headers"]["expires"]
    assert Envelope.of(task, 0).ttl_ms == 200


@pytest.mark.parametrize("eta", ["soon", 5, {"a": 1}])
def test_an_eta_that_cannot_be_read_is_left_to_celery(eta: Any) -> None:
    assert Envelope.of(message(eta=eta), 0).eta is None


def test_a_task_that_expires_before_its_time_is_not_kept_until_then() -> None:
    now = datetime.now(UTC)
    early, late = now.isoformat(), (now + timedelta(hours=1)).isoformat()
    held = message(eta=late, expires=early)
    assert Envelope.of(held, 0).eta == now
    assert not is_due(held)
    assert is_due(message(eta=early, expires=late))
    assert is_due(message(eta=early))
    assert not is_due(message())


@pytest.mark.parametrize("payload", ["", "[]", "{}", '{"properties": []}', '{"properties": {"delivery_info": 1}}'])
def test_what_is_no_message_says_so_without_quoting(payload: str) -> None:
    with pytest.raises(ValueError, match="payload") as caught:
        decode(payload)
    assert payload == "" or payload not in str(caught.value)


# -- batch size


def test_the_buffer_is_work_for_50_ms(clock: Clock) -> None:
    size = BatchSize()
    assert size.ahead() == 1
    size.delivered()
    for _ in range(100):
        clock.now += 0.001
        size.acked()
    assert 40 <= size.ahead() <= 50
    size.stalled()
    assert size.ahead() == 0


def test_a_worker_that_had_nothing_to_do_is_not_slow(clock: Clock) -> None:
    size = BatchSize()
    for _ in range(20):
        clock.now += 60
        size.delivered()
        clock.now += 0.001
        size.acked()
    assert size.ahead() >= 40


def test_looks_come_after_2_10_50_and_250_ms(clock: Clock) -> None:
    polling = PollingBackoff()
    pauses = []
    for _ in range(5):
        polling.found_nothing(None)
        pauses.append(round(polling.next - clock.now, 3))
        clock.now = polling.next
    assert pauses == [0.002, 0.01, 0.05, 0.25, 10.0]
    polling.found_nothing(0.5)
    assert polling.next - clock.now == pytest.approx(0.501)


def test_a_poll_is_promised_while_messages_are_dense(clock: Clock) -> None:
    polling = PollingBackoff()
    for number in range(1, 101):
        clock.now += 0.01
        polling.found(1, number)
    assert polling.promise() == 0  # 100 a second
    assert not polling.in_stream
    for number in range(101, 201):
        clock.now += 0.01
        polling.found(1, number * 10)  # others get nine of ten
    assert polling.in_stream
    for _ in range(PollingBackoff.PROMISES):
        assert polling.promise() == 0.002
        polling.found_nothing(None, polling.promise())
        assert polling.promised_s() == pytest.approx(0.002)
        clock.now = polling.next
        assert polling.promised_s() == pytest.approx(0)
    assert polling.promise() == 0  # after so many it sleeps, and polls as others do
    pauses = []
    for _ in range(5):
        polling.found_nothing(None)
        pauses.append(round(polling.next - clock.now, 3))
        clock.now = polling.next
    assert pauses == [0.002, 0.01, 0.05, 0.25, 10.0]
    clock.now += 60
    polling.found(1, 2001)
    assert polling.promise() == 0


def test_who_is_relieved_by_another_consumer_polls_after_50_and_250_ms(clock: Clock) -> None:
    polling = PollingBackoff()
    pauses = []
    for _ in range(3):
        polling.found_nothing(None, relieved=True)
        pauses.append(round(polling.next - clock.now, 3))
    assert pauses == [0.05, 0.25, 10.0]


def test_one_task_after_the_other_is_no_stream(clock: Clock) -> None:
    polling = PollingBackoff()
    for number in range(1, 101):
        clock.now += 0.002
        polling.found(1, number)
    assert polling.is_dense
    assert not polling.in_stream
    polling.found(2, 102)
    assert polling.in_stream


# -- who lives


def dead(detector: FailureDetector, *others: tuple[int, int, bool, bool]) -> list[tuple[int, int, bool]]:
    suspicions = detector.observe(Other(*one) for one in others)
    return [(one.consumer, one.counter, one.certain) for one in suspicions]


def test_silence_counts_only_while_it_was_watched(clock: Clock) -> None:
    detector = FailureDetector()
    for _ in range(10):
        assert dead(detector, (1, 7, True, True)) == []
        clock.now += 60  # we were stopped
    for _ in range(5):
        assert dead(detector, (1, 7, True, True)) == []
        clock.now += 1
    assert dead(detector, (1, 7, True, True)) == [(1, 7, False)]
    assert dead(detector, (1, 8, True, True)) == []


@pytest.mark.parametrize(
    ("own", "direct", "seconds"),
    [(False, False, 30), (True, False, 30), (True, True, 90)],
    ids=["no session", "a session through a proxy", "the server has its socket"],
)
def test_how_long_a_counter_may_stand(clock: Clock, own: bool, direct: bool, seconds: int) -> None:
    detector = FailureDetector(unresponsive_s=90)
    for _ in range(seconds):
        assert [certain for _, _, certain in dead(detector, (1, 7, own, direct))] in ([], [False])
        clock.now += 1
    assert dead(detector, (1, 7, own, direct)) == [(1, 7, True)]
    detector.forget()
    assert dead(detector, (1, 7, own, direct)) == []


def test_consumers_that_left_are_counted_while_they_are_watched(clock: Clock) -> None:
    detector = FailureDetector()
    dead(detector, (1, 7, True, True), (2, 3, True, True), (3, 3, True, True))
    assert detector.gone == 0
    clock.now += 1
    dead(detector, (2, 4, True, True), (4, 1, True, True))
    assert detector.gone == 2
    detector.forget()
    dead(detector, (4, 2, True, True))
    assert detector.gone == 2


def test_fences_are_even_and_never_the_same() -> None:
    fences = {new_fence() for _ in range(10_000)}
    assert len(fences) == 10_000
    assert not any(fence & 1 or fence >= 1 << 57 for fence in fences)


def test_early_acks_are_remembered_until_they_are_certain(clock: Clock) -> None:
    early = EarlyAcks()
    early.add(1, 10, "one")
    clock.now += EarlyAcks.KEPT_S - 1
    early.add(2, 20, "two")
    early.expire()
    clock.now += 2
    early.expire()
    clock.now += 3600  # the server is away: there is no sign of life
    assert early.take() == {2: (20, "two")}
    assert early.take() == {}
    for number in range(EarlyAcks.LIMIT + 5):
        early.add(number, 0, "")
    assert len(early.take()) == EarlyAcks.LIMIT


def test_acks_are_known_until_they_have_arrived(clock: Clock) -> None:
    pending = PendingAcks()
    assert pending.add((2, 1))
    assert not pending.add((1, 1))
    clock.now += 1
    assert pending.age() == 1
    with contextlib.suppress(ConnectionError), pending.sending() as acks:
        assert acks == [(1, 1), (2, 1)]
        assert len(pending) == 0
        assert pending.known() == {(1, 1), (2, 1)}
        raise ConnectionError
    assert pending.known() == {(1, 1), (2, 1)}
    with pending.sending() as acks:
        assert acks == [(1, 1), (2, 1)]
    assert pending.known() == set()


# -- statements


def test_every_statement_says_what_it_takes() -> None:
    loaded = statements()
    assert {"publish", "claim", "settle", "release", "beat"} <= loaded.keys()
    for statement in loaded.values():
        assert "%(" not in statement.prepare, statement.name
        assert set(re.findall(r"%\((\w+)\)s", statement.direct)) == set(statement.parameters), statement.name


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("30s", 30), ("10ms", 0.01), ("2500", 2.5), (" 1 min ", 60), ("0", None), ("0s", None), ("for ever", None)],
)
def test_how_long_an_answer_may_take(timeout: str, seconds: float | None) -> None:
    """Longer than the server lets the statement run; where it does so without a limit, as long as it likes."""
    patience = watchdog.patience_of(timeout)
    assert patience == (float("inf") if seconds is None else pytest.approx(seconds + watchdog.GRACE_S))
