"""The page's look at a Redis that is being drained, at a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from shutil import which

import pytest

from environment.testkit import servers
from environment.testkit.machine import uninstalled
from tests.runbook.pages import blocks

(BLOCK,) = [block for block in blocks("docs/backend/moving.md") if "redis-cli" in block.text]

Redis = Callable[..., str]


@pytest.fixture
def redis() -> Iterator[Redis]:
    """``redis(words, …)``: what redis-cli says."""
    if which("redis-server") is None or which("redis-cli") is None:
        uninstalled("redis-server, redis-cli")
    with servers.Redis() as server:

        def call(*words: str) -> str:
            command = ["redis-cli", "-p", str(server.port), *words]
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

        yield call


def shown(redis: Redis) -> set[str]:
    """The lines that the block prints, without their numbers."""
    script = BLOCK.text.partition("'")[2].rpartition("'")[0]
    return {line.partition(") ")[2] or line for line in redis("--no-raw", "EVAL", script, "0").splitlines()}


def test_a_drained_redis_has_nothing(redis: Redis) -> None:
    redis("SADD", "_kombu.binding.celery", "celery")
    redis("SET", "celery-task-meta-1", "{}")
    redis("LPUSH", "1f2e.reply.celery.pidbox", "an answer")
    assert BLOCK.text.startswith("redis-cli --no-raw EVAL '")
    assert shown(redis) == {"(empty array)"}


@pytest.mark.parametrize("prefix", ["", "shop:"], ids=["plain", "prefix"])
def test_what_waits_runs_or_is_delayed_is_shown_under_whatever_name(redis: Redis, prefix: str) -> None:
    """Kombu's names for tasks with the priorities 0, 3 and 9, and for one that runs."""
    redis("LPUSH", f"{prefix}Emails", "1", "2")
    redis("LPUSH", f"{prefix}Emails\x06\x163", "3")
    redis("LPUSH", f"{prefix}Emails\x06\x169", "9")
    redis("HSET", f"{prefix}unacked", "tag", "a running task")
    assert shown(redis) == {
        f'"{prefix}Emails: 2"',
        f'"{prefix}Emails\\x06\\x163: 1"',
        f'"{prefix}Emails\\x06\\x169: 1"',
        f'"{prefix}unacked: 1"',
    }
