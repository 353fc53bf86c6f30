"""The queue tool's commands that only look, as somebody at a terminal and as a script uses them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_postgres.tool import cli
from celery_postgres.tool.display import Capped, Display
from environment.testkit.client import Client
from environment.testkit.queue_tool import Tool, typed
from environment.testkit.tables import run

TENANT = "00000000-0000-0000-0000-00000000000a"
LATER = "2099-01-01T00:00:00+00:00"


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def app(make_app: Callable[[str], Celery], url: str) -> Celery:
    return make_app(url)


@pytest.fixture
def client(connect: Callable[..., Client], url: str) -> Client:
    return connect(url)


def send(app: Celery, queue: str, name: str, count: int = 1, **options: Any) -> None:
    for number in range(count):
        app.send_task(name, queue=queue, task_id=f"{name}-{number:08}", **options)


def bury(client: Client, queue: str, count: int) -> None:
    inbox = client.consume(queue, prefetch=0)
    for message in inbox.take(count):
        message.reject(requeue=False)
    inbox.close()


def test_queues_show_their_dead_letters_and_the_internal_ones_last(tool: Tool, client: Client, app: Celery) -> None:
    send(app, "zz", "mine.dead", 2)
    bury(client, "zz", 2)
    client.publish("x", "a@b.celery.pidbox")
    assert [(row["queue"], row["dead_letters"], row["ready"]) for row in tool("queues")] == [
        ("zz", 2, 0), ("a@b.celery.pidbox", 0, 1),
    ]  # fmt: skip
    assert [row["queue"] for row in tool()] == ["zz", "a@b.celery.pidbox"]


def test_counting_stops_unless_all_are_asked_for(tool: Tool, url: str, client: Client, queue: str) -> None:
    client.publish("x", queue)
    run(
        url, "INSERT INTO kombu_message (payload, queue_id) SELECT '{}', id FROM kombu_queue, generate_series(1, 10100)"
    )
    assert [row["ready"] for row in tool("queues")] == [10_001]
    assert [row["ready"] for row in tool("queues", "--exact")] == [10_101]
    assert typed(url, "queues").stdout.splitlines()[1].split()[1] == "10,000+"
    assert typed(url, "queues", "--exact").stdout.splitlines()[1].split()[1] == "10101"
    assert (json.dumps(Capped(10_001, 10_001)), str(Capped(10_000, 10_001)), str(Capped(5, None))) == (
        "10001", "10000", "5",
    )  # fmt: skip


def test_tasks_are_filtered_and_come_in_pages(tool: Tool, url: str, client: Client, app: Celery, queue: str) -> None:
    send(app, queue, "mine.one", 5, headers={"tenant_id": TENANT})
    send(app, queue, "mine.two", 1, eta=LATER)
    page = tool("tasks", "--limit", "2")
    assert [row["name"] for row in page["tasks"]] == ["mine.two", "mine.one"]
    rest = tool("tasks", "--limit", "9", "--cursor", page["next"])
    assert ([row["name"] for row in rest["tasks"]], rest["next"]) == (["mine.one"] * 4, None)
    assert [row["state"] for row in tool("tasks", "--state", "scheduled")["tasks"]] == ["scheduled"]
    assert len(tool("tasks", "--tenant", TENANT, "--queue", queue, "--since", "1h", "--task", "one")["tasks"]) == 5
    assert tool("tasks", "--until", "1h")["tasks"] == []
    shown = typed(url, "tasks", "--limit", "1").stdout.splitlines()
    assert (shown[0].split(), shown[1].split()[:4]) == (
        ["task_id", "task", "state", "queue", "since", "waited_s", "ran_s", "worker", "error"],
        ["mine.two-00000000", "mine.two", "scheduled", queue],
    )
    assert shown[2].startswith("older: add --cursor ")
    nothing = typed(url, "tasks", "--task", "Mine.One").stdout
    assert nothing.endswith("no such task has 'Mine.One' in its name: upper and lower case differ\n")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["--cursor", "x"], 1, "the cursor is not one that this list has given: start from the first page"),
        (["--tenant", "me"], 2, "argument --tenant: 'me' is no UUID: tasks are found by tenants that are"),
        (["--since", "soon"], 2, "argument --since: 'soon' is not an age: write 90, 15m, 2h or 7d"),
        (["--limit", "-1"], 2, "argument --limit: '-1' is not a number of rows"),
    ],
)
def test_a_wrong_filter_is_one_line(url: str, words: list[str], status: int, line: str) -> None:
    done = typed(url, "tasks", *words)
    assert (done.returncode, done.stderr.splitlines()[-1].endswith(line)) == (status, True), done.stderr


def test_a_whole_id_is_found_by_its_beginning_and_has_a_name(tool: Tool, app: Celery, queue: str) -> None:
    send(app, queue, "mine.one", 2)
    assert [row["task_id"] for row in tool("find", "mine.one-")] == ["mine.one-00000000", "mine.one-00000001"]
    state = tool("state", "mine.one-00000001")
    assert (state["task"], state["phase"], state["queue"]) == ("mine.one", "waiting", queue)
    assert tool("state", "nothing")["phase"] == "unknown"


def test_dead_letters_have_the_names_of_their_tasks_and_are_chosen_by_them(
    tool: Tool, client: Client, app: Celery, queue: str
) -> None:
    send(app, queue, "mine.one", 2)
    send(app, queue, "mine.two", 1)
    bury(client, queue, 3)
    assert [row["task"] for row in tool("dead", "list")] == ["mine.one", "mine.one", "mine.two"]
    (letter,) = tool("dead", "list", "--task", "mine.two")
    assert tool("dead", "show", str(letter["id"]))["task"] == "mine.two"
    assert tool("dead", "requeue", "--task", "mine.one", "--yes")["count"] == 2
    assert tool("dead", "purge", "--task", "mine.one")["count"] == 0
    assert [row["task"] for row in tool("dead", "list")] == ["mine.two"]


def test_a_task_name_that_nothing_has_is_warned_of(tool: Tool, url: str, app: Celery, queue: str) -> None:
    send(app, queue, "mine.one")
    assert tool("stop", "mine.one")["known"] is True
    assert tool("stop", "mine.on")["known"] is False
    assert typed(url, "stop", "mine.on").stdout.endswith(
        "; but nothing here has had this name yet: is it the task's whole name?\n"
    )


def test_problems_are_sentences(tool: Tool, url: str, client: Client, app: Celery, queue: str) -> None:
    assert (tool("problems"), typed(url, "problems").stdout) == ([], "Nothing needs attention.\n")
    send(app, queue, "mine.one")
    bury(client, queue, 1)
    (problem,) = tool("problems")
    assert (problem["rule"], problem["severity"]) == ("dead", "warning")
    line = "warning: 1 new dead letter in 15 minutes, 1 of them mine.one: rejected. Block the task"
    assert typed(url, "problems").stdout.startswith(line)


def test_schedules_show_when_each_was_sent(tool: Tool, url: str) -> None:
    run(url, "INSERT INTO celery_beat_entry (name, runs) VALUES ('nightly', 3)")
    (row,) = tool("schedules")
    assert (row["entry"], row["runs"], row["overdue_s"]) == ("nightly", 3, None)


def test_the_help_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("queues", "tasks", "problems", "schedules", "find", "stop", "move", "migrate", "roles"):
        assert f" {name} " in shown
    for name in ("list", "show", "requeue", "purge"):
        assert f"`dead {name}`: " in shown
    assert "run -- PROGRAM" in shown


# -- the width of a terminal


def printed(width: int, rows: list[Any], kind: Any) -> list[str]:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=width, force_terminal=True)
    console.no_color = True
    Display(console).show(kind, rows)
    text: str = console.file.getvalue()
    for code in ("\x1b[1m", "\x1b[0m", "\x1b[2m"):
        text = text.replace(code, "")
    return text.splitlines()


def test_nothing_is_cut_in_a_narrow_terminal(tool: Tool, client: Client, app: Celery, queue: str) -> None:
    from celery_postgres.database.dead_letter_store import DeadLetter

    send(app, queue, "a.module.of.mine.with_a_long_name", 1)
    bury(client, queue, 1)
    (letter,) = tool("dead", "list")
    row = DeadLetter(**letter)
    assert row.task_id is not None
    wide = printed(250, [row], DeadLetter)
    assert (len(wide), wide[0].split()[-1]) == (2, "task")
    middle = printed(max(len(line.rstrip()) for line in wide) - 1, [row], DeadLetter)
    assert (len(middle), "tenant_id" in middle[0], "task" in middle[0]) == (2, False, True)
    narrow = printed(60, [row], DeadLetter)
    assert f"  task_id: {row.task_id}" in narrow
    assert f"  task: {row.task}" in narrow
    assert not any(line.startswith("  tenant_id") for line in narrow)
