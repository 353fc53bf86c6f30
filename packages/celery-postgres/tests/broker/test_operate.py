"""The queue tool, as somebody at a terminal and as a script uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from celery_postgres.tool import cli
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.clock import CLOCK_AHEAD
from environment.testkit.databases import allow_stock, engine_of, rows
from environment.testkit.kombu_programs import environment, run_stock
from environment.testkit.probe import unique
from environment.testkit.queue_tool import Tool, start, typed
from environment.testkit.tables import dead_letters, rows_of, run, scalar
from environment.waiting import wait_until


@pytest.fixture
def client(connect: Callable[..., Client], plain_database: Any) -> Client:
    return connect(plain_database.url)


def bury(client: Client, queue: str, *bodies: str) -> None:
    """Dead letters."""
    for body in bodies:
        client.publish(body, queue)
    inbox = client.consume(queue, prefetch=0)
    for message in inbox.take(len(bodies)):
        message.reject(requeue=False)
    inbox.close()


def queue_row(tool: Tool, queue: str) -> dict[str, Any]:
    (row,) = [row for row in tool("queues") if row["queue"] == queue]
    return row


def test_queues_say_what_waits_what_is_held_and_who_consumes(tool: Tool, client: Client, queue: str) -> None:
    for number in range(4):
        client.publish(number, queue)
    client.publish("later", queue, headers={"eta": "2099-01-01T00:00:00+00:00", "id": "x", "task": "t"})
    held = client.consume(queue, prefetch=1).take(1)

    wait_until(lambda: queue_row(tool, queue)["claimed"] <= 2, DEADLINE_S, "the buffer to be given back")
    row = queue_row(tool, queue)
    assert (row["ready"] + row["claimed"], row["scheduled"], row["consumers"], row["paused"]) == (4, 1, 1, False)
    assert row["oldest_s"] >= 0
    (consumer,) = tool("consumers")
    assert (consumer["pid"], consumer["queues"]) == (os.getpid(), [queue])
    held[0].ack()


def test_a_table_for_people(client: Client, plain_database: Any, queue: str) -> None:
    client.publish("x", queue)
    shown = typed(plain_database.url)
    assert shown.returncode == 0, shown.stderr
    heads, row = shown.stdout.splitlines()
    assert heads.split()[:3] == ["queue", "paused", "ready"]
    assert row.split()[:2] == [queue, "1"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[/foo]", "[/foo]"),
        ("[bold]x", "[bold]x"),
        (":smile:", ":smile:"),
        ("q" * 200, "q" * 200),
    ],
    ids=["markup", "style", "emoji", "longest"],
)
def test_whatever_a_producer_calls_it_is_shown_as_it_is_and_whole(
    tool: Tool, client: Client, plain_database: Any, name: str, shown: str
) -> None:
    bury(client, name, "x")
    client.publish("y", name, headers={"id": name, "task": "t"})
    inbox = client.consume(name)
    url = plain_database.url
    for words in (["queues"], ["consumers"], ["dead", "list"]):
        head, row = typed(url, *words).stdout.splitlines()
        assert shown in row, (head, row)
    assert typed(url, "pause", name).stdout == f"{shown} is paused; consumers follow within 1.3 s\n"
    assert typed(url, "purge", name).stdout.endswith(f" message of {shown}; pass --yes to do it\n")
    assert [row["queue"] for row in tool("queues")] == [name]
    inbox.close()
    assert typed(url, "cancel", name).stdout == f"would revoke 1 message of task {shown}; pass --yes to do it\n"


def test_the_id_of_a_task_is_no_command_to_a_terminal(client: Client, plain_database: Any, queue: str) -> None:
    """A queue cannot have such a name."""
    hostile, shown = "a\x1b[2J\nb\x9bc\u202e", r"a\x1b[2J\nb\x9bc\u202e"
    client.publish("y", queue, headers={"id": hostile, "task": "t"})
    answer = typed(plain_database.url, "cancel", hostile).stdout
    assert answer == f"would revoke 1 message of task {shown}; pass --yes to do it\n"


def test_what_producers_say_is_no_command_to_a_terminal(client: Client, plain_database: Any, queue: str) -> None:
    bury(client, queue, "x\x1b[2J\ny")
    ((id_,),) = rows(plain_database.url, "SELECT id FROM kombu_dead_letter")
    shown = typed(plain_database.url, "dead", "show", str(id_), "--payload").stdout
    assert r"x\x1b[2J\ny" in shown
    assert "\x1b" not in shown


def test_a_paused_queue_gives_nothing_until_it_is_resumed(tool: Tool, client: Client, queue: str) -> None:
    inbox = client.consume(queue)
    heartbeat = client.connection.connection.buffer.heartbeat
    assert tool("pause", queue)["paused"] is True
    wait_until(lambda: bool(heartbeat.paused), DEADLINE_S, "the consumer to see it")
    client.publish("x", queue)
    assert inbox.nothing()
    assert queue_row(tool, queue)["paused"] is True

    assert tool("resume", queue)["paused"] is False

    assert inbox.take_acked(1) == ["x"]


def test_a_pause_empties_the_buffer(tool: Tool, client: Client, queue: str) -> None:
    """What a consumer has taken ahead and not delivered goes back at once."""
    inbox = client.consume(queue, prefetch=0)
    batch_size = client.connection.connection.buffer.policy.batch_size
    for number in range(40):
        client.publish(number, queue)
    for message in inbox.take(20):
        message.ack()

    def takes_ahead() -> bool:
        client.publish("quick", queue)
        inbox.take(1)[0].ack()
        return bool(batch_size.ahead() > 1)

    wait_until(takes_ahead, DEADLINE_S, "messages to be taken ahead, which is of quick ones")
    tool("pause", queue)
    taken = len(inbox.messages)

    wait_until(lambda: queue_row(tool, queue)["claimed"] <= taken, DEADLINE_S, "the buffer to be given back")

    tool("resume", queue)
    assert len(inbox.take(20)) == 20


def test_purge_says_first_what_it_would_delete(tool: Tool, client: Client, queue: str) -> None:
    for number in range(3):
        client.publish(number, queue)
    assert tool("purge", queue) == {"dry_run": True, "verb": "delete", "count": 3}
    assert client.count(queue) == 3
    assert tool("purge", queue, "--yes") == {"dry_run": False, "verb": "deleted", "count": 3}
    assert client.count(queue) == 0


def test_dead_letters_are_listed_shown_and_brought_back(
    tool: Tool, client: Client, plain_database: Any, queue: str
) -> None:
    bury(client, queue, "one secret", "two")
    first, second = tool("dead", "list")
    assert (first["queue"], first["reason"], first["failures"]) == (queue, "rejected", 0)
    assert "secret" not in json.dumps(tool("dead", "show", str(first["id"])))
    assert tool("dead", "show", str(first["id"]), "--payload")["body"] == "one secret"

    assert tool("dead", "requeue", str(first["id"]))["dry_run"] is True
    assert dead_letters(plain_database.url) == 2
    assert tool("dead", "requeue", str(first["id"]), "--yes")["count"] == 1

    assert client.consume(queue).take_acked(1) == ["one secret"]
    assert [row["id"] for row in tool("dead", "list", "--queue", queue)] == [second["id"]]


def test_dead_letters_are_purged_by_condition(tool: Tool, client: Client, plain_database: Any, queue: str) -> None:
    bury(client, queue, "a", "b", "c")
    run(
        plain_database.url,
        "UPDATE kombu_dead_letter SET died_at = now() - interval '8 days' WHERE payload LIKE '%\"a\"%'",
    )
    refused = typed(plain_database.url, "dead", "purge", "--yes")
    assert (refused.returncode, refused.stderr) == (
        1,
        "celery_postgres: which dead letters? give ids, --queue, --task, --reason, --older-than or --all\n",
    )
    assert tool("dead", "purge", "--older-than", "7d", "--yes")["count"] <= 1
    assert tool("dead", "purge", "--all", "--yes")["verb"] == "deleted"
    assert dead_letters(plain_database.url) == 0


def test_what_cannot_go_back_stays_and_says_why(tool: Tool, client: Client, plain_database: Any, queue: str) -> None:
    client.publish("x", queue)
    run(plain_database.url, "UPDATE kombu_message SET payload = 'no message'")
    client.consume(queue).take_until(lambda: dead_letters(plain_database.url) == 1)
    done = typed(plain_database.url, "dead", "requeue", "--all", "--yes")
    assert done.returncode == 1
    assert done.stdout == "requeued 0 dead letters\n"
    assert "1 not requeued: 1 unreadable" in done.stderr
    assert dead_letters(plain_database.url) == 1


LETTERS = """
    INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload)
    SELECT n, 0, %(queue)s, 'rejected', '{"body": "", "properties": {}}' FROM generate_series(1, %(count)s) AS n
"""


@pytest.mark.parametrize(("verb", "told"), [("requeue", "requeued"), ("purge", "deleted")])
def test_two_operators_at_once_share_the_dead_letters(
    client: Client, plain_database: Any, queue: str, verb: str, told: str
) -> None:
    """One letter goes after it was listed, another after it was looked at: the first batch waits for its lock."""
    url, count = plain_database.url, 1_001
    client.publish("x", queue)
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql(LETTERS, {"queue": queue, "count": count})
    with engine_of(url).connect() as other, start(url, "dead", verb, "--all", "--yes") as process:
        other.exec_driver_sql("DELETE FROM kombu_dead_letter WHERE message_id IN (1, 1001)")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: scalar(url, waits) == 1, DEADLINE_S, "the tool to wait for the lock")
        other.commit()
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    assert out == f"{told} 999 dead letters; another operator was faster with 2\n"
    assert dead_letters(url) == 0
    assert rows_of(url, queue) == (1_000 if verb == "requeue" else 1)


@pytest.mark.parametrize("verb", ["requeue", "purge"])
def test_dead_letters_that_are_not_there_are_named(
    client: Client, plain_database: Any, queue: str, tool: Tool, verb: str
) -> None:
    bury(client, queue, "x")
    (letter,) = tool("dead", "list")
    for words in ([], ["--yes"]):
        done = typed(plain_database.url, "dead", verb, "999998", "999999", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "celery_postgres: nothing to do; not found: 999998, 999999\n"
    done = typed(plain_database.url, "dead", verb, str(letter["id"]), "999999", "--yes")
    assert done.returncode == 0
    assert done.stdout.endswith(" 1 dead letter; not found: 999999\n")


def test_a_limit_is_a_number(plain_database: Any) -> None:
    done = typed(plain_database.url, "dead", "list", "--limit", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("argument --limit: '-1' is not a number of rows\n")


def test_what_an_operator_asks_may_take_longer_than_what_a_worker_does(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Watched(cli.Session):
        def close(self) -> None:
            if not self.closed:
                self._cursor.execute("SHOW statement_timeout")
                seen.extend(self._cursor.fetchone())
            super().close()

    monkeypatch.setattr(cli, "Session", Watched)
    assert cli.main(["queues"], plain_database.url) == 0
    assert seen == ["10min"]


def test_without_rich_it_prints_json_or_says_what_is_missing(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("rich", "rich.console", "rich.table", "rich.text"):
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["queues"], plain_database.url) == 1
    assert capsys.readouterr().err == (
        "celery_postgres: tables need the package rich: run `pip install rich`, or add --json\n"
    )
    assert cli.main(["--json", "queues"], plain_database.url) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("words", [["queues"], ["--json", "queues"]])
def test_a_full_disk_is_one_line(client: Client, plain_database: Any, words: list[str]) -> None:
    client.publish("x", "q")
    with open("/dev/full", "w") as full:
        done = typed(plain_database.url, *words, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "celery_postgres: the answer cannot be written: No space left on device\n"


def test_a_cancelled_task_is_discarded_at_once_though_its_time_has_not_come(probe: Any) -> None:
    result = probe.send("run", "never", countdown=3600)
    would = typed(probe.url, "cancel", result.id)
    assert would.stdout == f"would revoke 1 message of task {result.id}; pass --yes to do it\n"
    probe.start()

    assert typed(probe.url, "cancel", result.id, "--yes").returncode == 0

    probe.wait_for("revoked", "never")
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "the message to go")
    wait_until(lambda: result.state == "REVOKED", DEADLINE_S, "its result")
    assert probe.notes("start", "never") == []


def test_a_task_of_a_paused_queue_is_cancelled_and_the_command_says_from_when(probe: Any, tool: Tool) -> None:
    result = probe.send("run", "never")
    nobody = " has no consumer: until a consumer discards the message, the task has no result\n"
    assert typed(probe.url, "cancel", result.id, "--yes").stdout.endswith("; celery" + nobody)
    tool("pause", "celery")
    done = typed(probe.url, "cancel", result.id, "--yes").stdout
    assert "; celery is paused (resume it with `resume celery`): until a consumer" in done
    assert tool("cancel", result.id, "--yes")["stalled"] == ["celery"]
    probe.start()

    tool("resume", "celery")

    wait_until(lambda: result.state == "REVOKED", DEADLINE_S, "its result")
    assert probe.notes("start", "never") == []


def test_a_stopped_task_is_set_aside_while_its_queue_goes_on(probe: Any, tool: Tool) -> None:
    tool("stop", "probe.run")
    kept = probe.send("run", "kept")
    probe.start()  # sees it before it claims anything

    wait_until(lambda: dead_letters(probe.url) == 1, DEADLINE_S, "the task to be set aside")
    assert probe.send("echo", 1).get(timeout=DEADLINE_S) == 1
    assert [row["task"] for row in tool("stopped")] == ["probe.run"]
    (dead,) = tool("dead", "list", "--reason", "stopped: probe.run")
    assert (dead["task_id"], dead["failures"]) == (kept.id, 0)

    assert tool("allow", "probe.run")["blocked"] is False
    wait_until(lambda: _runs(probe), DEADLINE_S, "the worker to see it")
    assert tool("dead", "requeue", "--reason", "stopped: probe.run", "--yes")["count"] >= 1
    assert kept.get(timeout=DEADLINE_S) == "kept"


def _runs(probe: Any) -> bool:
    """Whether a worker runs a task that begins now; else it sets it aside."""
    before, tag = dead_letters(probe.url), unique("asked")
    probe.send("run", tag)
    wait_until(lambda: probe.notes("end", tag) or dead_letters(probe.url) > before, DEADLINE_S, "the task to end")
    return bool(probe.notes("end", tag))


def test_a_running_worker_follows_a_stop(probe: Any, tool: Tool) -> None:
    probe.start()
    assert probe.send("run", "before").get(timeout=DEADLINE_S) == "before"
    tool("stop", "probe.run")
    wait_until(lambda: not _runs(probe), DEADLINE_S, "the worker to see it")


def test_a_stop_empties_the_buffer_of_a_busy_consumer(
    tool: Tool, client: Client, plain_database: Any, queue: str
) -> None:
    inbox, count = client.consume(queue, prefetch=4), 1_000
    connection = client.connection.connection.buffer
    connection.STALE_S = 3600.0  # it is busy: nothing goes back for lying there
    for number in range(count):
        client.publish(number, queue, headers={"task": "app.stopped"})
    done = inbox.take_acked(100)  # fast enough for some to be taken ahead
    tool("stop", "app.stopped")

    def seen() -> bool:
        inbox.drain(0.01)
        while inbox.messages:
            done.extend(inbox.take_acked(1))
        return "app.stopped" in connection.heartbeat.blocked

    wait_until(seen, DEADLINE_S, "the consumer to see it")
    wait_until(lambda: not connection.holds_messages, DEADLINE_S, "the buffer to be given back")
    inbox.take_until(lambda: dead_letters(plain_database.url) == count - len(done))

    assert inbox.messages == []
    assert done == list(range(len(done)))


def test_a_consumer_that_is_released_begins_anew(probe: Any, tool: Tool) -> None:
    probe.start()
    (consumer,) = tool("consumers")
    assert tool("release", str(consumer["id"]))["dry_run"] is True
    tool("release", str(consumer["id"]), "--yes")

    wait_until(
        lambda: [row["id"] for row in tool("consumers")] not in ([], [consumer["id"]]), DEADLINE_S, "a new consumer"
    )
    assert probe.send("echo", 1).get(timeout=DEADLINE_S) == 1


def test_what_stock_consumers_took_is_counted_and_deleted_by_age(
    tool: Tool, client: Client, plain_database: Any, queue: str
) -> None:
    client.publish("x", queue)
    allow_stock(plain_database.url)
    run_stock("consume", plain_database.url, queue, "1")
    assert tool("taken") == []
    assert tool("taken", "--older-than", "0") == [{"queue": queue, "taken_by_stock": 1}]
    assert tool("taken", "--older-than", "0", "--delete")["dry_run"] is True
    assert tool("taken", "--older-than", "0", "--delete", "--yes")["count"] == 1
    assert scalar(plain_database.url, "SELECT count(*) FROM kombu_message") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pause", "nowhere"], "there is no queue 'nowhere'"),
        (["purge", "nowhere", "--yes"], "there is no queue 'nowhere'"),
        (["cancel", "nobody"], "task nobody has no waiting message: those of stock producers cannot be found by task"),
        (["allow", "app.never"], "'app.never' is not blocked"),
        (["release", "7", "--yes"], "there is no consumer 7"),
        (["dead", "show", "7"], "there is no dead letter 7"),
        (["stop", ""], "the name of the task is empty"),
    ],
)
def test_what_is_not_there_is_one_line(plain_database: Any, words: list[str], told: str) -> None:
    done = typed(plain_database.url, *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"celery_postgres: {told}\n")


@pytest.mark.parametrize("words", [["dead", "list"], ["dead", "purge", "--yes"], ["taken"]])
@pytest.mark.parametrize("age", ["999999999999d", "9" * 400], ids=["days", "digits"])
def test_an_age_that_nothing_has_is_refused(plain_database: Any, words: list[str], age: str) -> None:
    done = typed(plain_database.url, *words, "--older-than", age)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("argument --older-than: nothing is older than 365000d")
    assert "Traceback" not in done.stderr


def test_an_address_for_asyncpg_is_understood(plain_database: Any) -> None:
    """The tool is run with the application's DATABASE_URL."""
    _, _, rest = plain_database.url.partition("://")
    joint = "&" if "?" in rest else "?"
    done = typed(f"postgresql+asyncpg://{rest}{joint}ssl=disable&statement_cache_size=0", "queues")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:hunter2@localhost/0", "is not a PostgreSQL URL"),
        ("postgresql://u:hunter2@127.0.0.1:1/d", "onnection refused"),
        ("postgresql://u:hunter2@h/d?nonsense=1", "libpq"),
    ],
)
def test_a_bad_address_is_one_line_without_its_password(url: str, told: str) -> None:
    done = typed(url, "queues")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert told in line
    assert "hunter2" not in line


def test_a_wrong_clock_of_the_operator_purges_nothing_that_is_new(plain_database: Any) -> None:
    run(
        plain_database.url,
        "INSERT INTO kombu_dead_letter (died_at, message_id, failures, queue, reason, payload) VALUES"
        " (now() - interval '8 days', 1, 1, 'q', 'r', '{}'), (now() - interval '6 days', 2, 1, 'q', 'r', '{}')",
    )
    program = f"{CLOCK_AHEAD}\nimport runpy\nrunpy.run_module('celery_postgres', run_name='__main__')"
    words = ["dead", "purge", "--older-than", "7d", "--yes"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**environment(), "DATABASE_URL": plain_database.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "deleted 1 dead letter\n"), done.stderr
