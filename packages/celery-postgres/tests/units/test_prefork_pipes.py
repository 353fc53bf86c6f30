"""Celery's prefork pool with our pipes: its own event loop, its own children."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.concurrency import asynpool
from celery.worker import state
from kombu.asynchronous import Hub

from celery_postgres.compat import prefork_messages, prefork_pipes

LARGE = 300_000  # more than a pipe holds

# A process of pytest-xdist has a second thread, of which the children need nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def answer(number: int, padding: str, size: int) -> tuple[int, int, int, str]:
    return number, os.getpid(), len(padding), "x" * size


def succeed(number: int, size: int) -> tuple[int, str, float]:
    """What Celery's tracer reports."""
    return 0, f"{number} " + "x" * size, 0.5


def end(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Pool:
    """Two children, and the event loop of their main process."""

    def __init__(self) -> None:
        prefork_pipes.install()
        prefork_messages.install()
        self.hub = Hub()
        self.pool = asynpool.AsynPool(
            processes=2, threads=False, lost_worker_timeout=0.1, sched_strategy="fair", putlocks=False
        )
        self.pool.register_with_event_loop(self.hub)
        self.loop = self.hub.create_loop()
        self.answers: list[Any] = []
        self.errors: list[Any] = []
        self.accepted: list[int] = []

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.pool.apply_async(
            function,
            arguments,
            callback=self.answers.append,
            error_callback=self.errors.append,
            accept_callback=lambda pid, _: self.accepted.append(pid),
        )

    def run_until(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not done():
            assert time.monotonic() < until
            self.hub.call_later(0.01, lambda: None)  # the loop may have nothing else to wait for
            next(self.loop)

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()
        self.hub.close()


@pytest.fixture(scope="module")
def started() -> Iterator[Pool]:
    made = Pool()
    made.run_until(lambda: len(made.pool._all_inqueues) == 2)
    yield made
    made.close()


@pytest.fixture
def pool(started: Pool) -> Pool:
    for noted in started.answers, started.errors, started.accepted:
        noted.clear()
    return started


def test_each_task_is_run_once_whatever_its_size_and_that_of_its_result(pool: Pool) -> None:
    sizes = [(0, 0), (prefork_pipes._AT_ONCE, 1), (LARGE, 0), (0, 20_000), (1, LARGE), (LARGE, LARGE)]
    expected = []
    for number in range(60):
        there, back = sizes[number % len(sizes)]
        pool.send(answer, number, "y" * there, back)
        expected.append((number, there, back))
    pool.run_until(lambda: len(pool.answers) == 60)
    assert sorted((number, there, len(back)) for number, _, there, back in pool.answers) == expected
    assert {pid for _, pid, _, _ in pool.answers} == {one.pid for one in pool.pool._pool}
    assert len(pool.accepted) == 60
    assert not pool.hub.writers  # no pipe is polled that nothing waits for
    assert not pool.hub.consolidate


def test_each_end_of_a_task_is_reported_once_whatever_its_size(pool: Pool) -> None:
    for number in range(60):
        pool.send(succeed, number, (0, 5_000, LARGE)[number % 3])
    pool.run_until(lambda: len(pool.answers) == 60)
    assert sorted(int(text.split()[0]) for _, text, _ in pool.answers) == list(range(60))
    assert len(pool.accepted) == 60


def test_a_busy_child_is_given_nothing(pool: Pool) -> None:
    for number in range(4):
        pool.send(answer, number, "", 0)
    pool.pool.on_poll_start()
    assert len(pool.pool._busy_workers) == 2
    assert len(pool.pool.outbound_buffer) == 2
    pool.run_until(lambda: len(pool.answers) == 4)


def test_a_killed_child_is_replaced_and_its_task_reported_as_lost(pool: Pool) -> None:
    pool.send(end, 1)
    pool.run_until(lambda: bool(pool.errors) and len(pool.pool._all_inqueues) == 2)
    for number in range(10):
        pool.send(answer, number, "", 0)
    pool.run_until(lambda: len(pool.answers) == 10)


def test_a_revoked_task_that_is_put_back_is_not_written(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "revoked", {"revoked"})
    pool.send(answer, 1, "", 0)
    job = next(iter(pool.pool._cache.values()))
    job.terminate(signal.SIGTERM)
    pool.pool.outbound_buffer.clear()
    pool.pool._put_back(job)
    pool.run_until(lambda: bool(pool.errors))
    assert not pool.answers


def test_messages_that_were_read_together_each_have_their_turn_when_one_raises(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    handler, taken = pool.pool._result_handler, []

    def take(message: int) -> None:
        taken.append(message)
        if message == 2:
            raise ValueError(message)

    monkeypatch.setattr(handler, "on_state_change", take)
    pool.pool._fileno_to_outq[reader] = object()
    try:
        read = handler._make_process_result(pool.hub)
        os.write(writer, b"".join(map(_packed, (1, 2, 3))) + _packed(4)[:2])
        with pytest.raises(ValueError, match="2"):
            read(reader)
        assert taken == [1, 2, 3]
        os.write(writer, _packed(4)[2:] + _packed(5))
        with pytest.raises(StopIteration):
            next(pool.hub.readers[reader][0])
        assert taken == [1, 2, 3, 4]
        read(reader)
        assert taken == [1, 2, 3, 4, 5]
    finally:
        del pool.pool._fileno_to_outq[reader]
        pool.hub.remove(reader)
        os.close(reader)
        os.close(writer)


def _packed(message: Any) -> bytes:
    data = pickle.dumps(message)
    return struct.pack(">i", len(data)) + data
