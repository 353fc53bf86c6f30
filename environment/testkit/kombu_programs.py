"""Small Kombu programs in processes of their own: ``python -m environment.testkit.kombu_programs VERB …``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from environment.sources import CHECKOUT
from environment.testkit import children
from environment.waiting import wait_until


def environment() -> dict[str, str]:
    """The environment of a child, whose output is not buffered."""
    return children.environment({"PYTHONUNBUFFERED": "1"})


def spawn(verb: str, *words: str) -> subprocess.Popen[str]:
    """Start one of the programs below."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "environment.testkit.kombu_programs", verb, *words],
        env=environment(),
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


spawn.environment = environment


def run_stock(verb: str, *words: str) -> Any:
    """Run a program with the stock transport and return what it printed as JSON."""
    process = spawn(f"stock-{verb}", *words)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(out or "null")


def _connection(url: str) -> Any:
    from kombu import Connection

    return Connection("sqla+" + url)


def _install() -> None:
    import celery_postgres

    celery_postgres.install()


def declare(url: str, prefix: str, count: str, folder: str, number: str, total: str) -> None:
    """Declare queues with bindings as soon as all processes are ready."""
    _install()
    from kombu import Exchange, Queue

    with _connection(url) as connection:
        channel = connection.channel()
        (Path(folder) / number).touch()
        wait_until(lambda: len(list(Path(folder).iterdir())) == int(total), 30, "the others")
        for one in range(int(count)):
            name = f"{prefix}-{one}"
            Queue(name, Exchange(f"{prefix}-exchange", "direct"), name)(channel).declare()


def publish(url: str, queue: str, count: str, *flags: str) -> None:
    """Publish numbers to a queue."""
    if "--stock" not in flags:
        _install()
    connection = _connection(url)
    producer = connection.Producer()
    for number in range(int(count)):
        producer.publish(number, exchange="", routing_key=queue)
    if "--leave-open" not in flags:
        connection.release()


def fork(url: str, queue: str) -> None:
    """Publish in the parent, in a child, and in both at once."""
    _install()
    connection = _connection(url)
    producer = connection.Producer()
    for number in range(10):
        producer.publish(number, exchange="", routing_key=queue)
    child = os.fork()
    if child == 0:
        with _connection(url) as own:
            for number in range(25):
                own.Producer().publish(number, exchange="", routing_key=queue)
        os._exit(0)
    for number in range(25):
        producer.publish(number, exchange="", routing_key=queue)
    _, status = os.waitpid(child, 0)
    connection.release()
    sys.exit(os.waitstatus_to_exitcode(status))


def puppet(url: str, queue: str) -> None:
    """A consumer that executes the commands of its input, one per line: get, ack, requeue, drop, close; it answers each
    with a line.

    It reads another queue first, which registers it as a consumer that runs maintenance.
    """
    _install()
    from kombu import Queue

    connection = _connection(url)
    bound = Queue(queue)(connection.default_channel)
    bound.declare()
    idle = Queue(f"{queue}-idle")(connection.default_channel)
    idle.declare()
    idle.get()
    held: dict[Any, Any] = {}
    for line in sys.stdin:
        verb, *words = json.loads(line)
        answer: Any = None
        if verb == "get":
            message = bound.get()
            if message is not None:
                answer = message.payload
                held[answer] = message
        elif verb == "ack":
            held.pop(words[0]).ack()
        elif verb in ("requeue", "drop"):
            held.pop(words[0]).reject(requeue=verb == "requeue")
        elif verb == "close":
            connection.release()
        _answer(answer)
        if verb == "close":
            return


def stock_publish(url: str, queue: str, *bodies: str) -> None:
    """Publish with the stock transport."""
    with _connection(url) as connection:
        assert connection.transport.driver_name == "sqlalchemy"
        assert type(connection.transport).__module__ == "kombu.transport.sqlalchemy"
        producer = connection.Producer()
        for body in bodies:
            producer.publish(json.loads(body), exchange="", routing_key=queue, serializer="json")


def stock_consume(url: str, queue: str, count: str) -> None:
    """Take messages with the stock transport and acknowledge them; prints the payloads."""
    with _connection(url) as connection:
        assert type(connection.transport).__module__ == "kombu.transport.sqlalchemy"
        simple = connection.SimpleQueue(queue)
        taken = []
        for _ in range(int(count)):
            message = simple.get(timeout=20)
            taken.append({"payload": message.payload, "headers": message.headers})
            message.ack()
        _answer(taken)


def stock_send(url: str, task: str, count: str, tag: str, queue: str, countdown: str) -> None:
    """Send Celery tasks with the stock transport."""
    from celery import Celery

    app = Celery("stock", broker="sqla+" + url)
    for number in range(int(count)):
        app.send_task(task, [f"{tag}-{number}"], queue=queue, countdown=float(countdown) or None, ignore_result=True)
    app.pool.force_close_all()
    app.close()


def stock_results(url: str) -> None:
    """Store and read a result with the stock backend."""
    from celery import Celery
    from celery.utils import uuid

    app = Celery("stock", broker="memory://", backend="db+" + url)
    task_id = uuid()
    app.backend.store_result(task_id, {"value": 1}, "SUCCESS")
    end = time.monotonic() + 20
    while app.backend.get_task_meta(task_id)["status"] != "SUCCESS":
        assert time.monotonic() < end
    _answer(task_id)


def _answer(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
