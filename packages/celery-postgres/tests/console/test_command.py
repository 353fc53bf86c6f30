"""`celery -A app console`, as its own process."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_postgres.console import ConfiguredKeys
from celery_postgres.console.sessions import Attempts
from celery_postgres.console_command import console
from environment.cluster import free_port
from environment.testkit import children
from environment.waiting import wait_until

APP = """
import os
from celery import Celery
app = Celery("mine", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.broker_transport = "celery_postgres:Transport"
"""
#: The entry point, which only an installed package has.
PROGRAM = """
import celery_postgres
celery_postgres.install()
from celery.bin.celery import celery
from celery_postgres.console_command import console
celery.add_command(console)
celery.main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(APP)
    return tmp_path


def command(*words: str, url: str, **variables: str) -> dict[str, Any]:
    environment = children.environment({"BROKER": url, **variables})
    return {"args": [sys.executable, "-c", PROGRAM, "-A", "mine", "console", *words], "env": environment}


def call(*words: str, broker: str = "postgresql://127.0.0.1:1/none", **variables: str) -> Any:
    """The command in this process, where it does not serve."""
    app = Celery("mine", broker=broker)
    app.conf.broker_transport = "celery_postgres:Transport" if broker.startswith("postgresql") else None
    return CliRunner().invoke(console, list(words), obj=SimpleNamespace(app=app), env=variables)


@contextmanager
def served(folder: Path, url: str, *words: str, **variables: str) -> Iterator[str]:
    port = free_port()
    with (folder / "log").open("w") as log:
        options = command("--port", str(port), *words, url=url, **variables)
        process = subprocess.Popen(**options, cwd=folder, stdout=log, stderr=log, preexec_fn=children.dies_with_us())

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/static/console.css", timeout=5).close()
        except OSError:  # also one that is accepted and not answered in time, which is no URLError
            return False
        return True

    try:
        wait_until(answers, 90, "the console")
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def get(address: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def sign_in(address: str, claimed: str) -> int:
    """Try a wrong key, and claim to come from an address. Returns the status."""
    request = urllib.request.Request(f"{address}/sign-in", b"key=wrong", {"X-Forwarded-For": claimed})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_this_machine_looks_without_a_key(folder: Path, module_database: Any) -> None:
    with served(folder, module_database.url, "--title", "here") as address:
        status, page = get(f"{address}/")
        assert status == 200
        assert "Open on this machine alone" in page
        assert f"The console listens on {address}. It asks for no key" in (folder / "log").read_text()
        assert get(f"{address}/", **{"X-Forwarded-For": "127.0.0.1"})[0] == 403
        assert '<span class="env">here</span>' in page
        status, refusal = get(f"{address}/", Host="evil.example")
        assert status == 421
        assert "--allowed-host" in refusal
        tab = urllib.request.urlopen(f"{address}/events?of=queues", timeout=20)  # noqa: S310
        assert tab.readline().startswith(b"data: ")
    # The server has stopped, though a page was live: it ends the streams first.
    with tab:
        assert tab.read() is not None
    assert "graceful" not in (folder / "log").read_text()


def test_with_keys_it_is_closed(folder: Path, module_database: Any) -> None:
    key, line = call("--new-key", "operator", "on-call").stdout.splitlines()
    viewer = ConfiguredKeys([line]).enter(key)
    assert viewer is not None
    assert viewer.name == "on-call"
    # A proxy shows it below a path, which it takes away.
    with served(folder, module_database.url, "--root-path", "/celery", CELERY_CONSOLE_KEYS=line) as address:
        status, page = get(f"{address}/queues")
        assert status == 401
        assert "Sign in with a key" in page
        assert 'action="/celery/sign-in"' in page
        assert 'href="/celery/static/console.css' in page
        assert 'name="next" value="/queues"' in page
        assert get(f"{address}/celery/queues")[0] == 401, "without a key every address is the door"
        assert "Sign in with a key of CELERY_CONSOLE_KEYS" in (folder / "log").read_text()
        # Anybody may write such a header; it counts only from a proxy that is trusted.
        found = [sign_in(address, f"10.0.0.{number}") for number in range(Attempts.MOST + 1)]
        assert found == [401] * Attempts.MOST + [429]


def test_a_trusted_proxy_says_whom_it_asks_for(folder: Path, module_database: Any) -> None:
    _, line = call("--new-key", "operator", "on-call").stdout.splitlines()
    words = ("--trusted-proxy", "127.0.0.1/8", "--allowed-host", "*")
    with served(folder, module_database.url, *words, CELERY_CONSOLE_KEYS=line) as address:
        assert get(f"{address}/", Host="any.example")[0] == 401
        found = [sign_in(address, "10.0.0.1") for _ in range(Attempts.MOST + 1)]
        assert found == [401] * Attempts.MOST + [429]
        assert sign_in(address, "10.0.0.2") == 401


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        (("--host", "0.0.0.0"), {}, "without keys it listens on a loopback address only"),  # noqa: S104
        (("--allowed-host", "*"), {}, "--allowed-host '*' needs keys"),
        (("--allowed-host", "*.example"), {}, "'*.example' is not a host name such as console.example"),
        (("--trusted-proxy", "proxy"), {}, "--trusted-proxy 'proxy' is not an address"),
        (("--trusted-proxy", "0.0.0.0/0"), {}, "--trusted-proxy '0.0.0.0/0' is everybody"),
        (("--root-path", "celery/"), {}, "'celery/' is not a path such as /celery"),
        (("--root-path", "//evil.example"), {}, "is not a path such as /celery"),
        ((), {"CELERY_CONSOLE_KEYS": "hunter2"}, "key 1 of the console is not"),
        ((), {"CELERY_CONSOLE_SECRET": "hunter2"}, "CELERY_CONSOLE_SECRET is shorter than 32 characters"),
        (("--new-key", "admin", "x"), {}, "a key is for a `reader`"),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], variables: dict[str, str], says: str) -> None:
    done = call(*words, **variables)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("console: ")
    assert says in line
    assert "hunter2" not in line


def test_another_broker_is_one_line() -> None:
    done = call(broker="memory://")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "console: the application's broker is kombu.transport.memory, not celery_postgres\n"
