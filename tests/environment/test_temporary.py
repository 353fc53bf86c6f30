"""Temporary clusters: what they offer, and that nothing survives them."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from environment.account import server_account
from environment.cluster import postmaster_pid, socket_fits
from environment.errors import UserError
from environment.temporary import TemporaryCluster, sweep, temporary_root
from environment.waiting import wait_until

pytestmark = pytest.mark.root

Query = Callable[..., list[tuple[Any, ...]]]
Python = Callable[[str], "subprocess.Popen[str]"]

OWNER = """
from environment.temporary import TemporaryCluster
with TemporaryCluster() as cluster:
    print(cluster.home, cluster.pid(), flush=True)
    input()
"""


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_the_application_has_a_role_without_privileges_and_owns_its_database(
    private_cluster: TemporaryCluster, query: Query
) -> None:
    role = "SELECT rolcanlogin, rolcreatedb, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    assert query(private_cluster.url(), role) == [(True, True, False, False)]
    assert query(private_cluster.url(), "CREATE TABLE made_by_owner (); SELECT 1") == [(1,)]
    assert query(private_cluster.superuser_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [
        (True,)
    ]


def test_passwords_are_asked_for_over_tcp(private_cluster: TemporaryCluster, query: Query) -> None:
    assert query(private_cluster.tcp_url(), "SELECT 1") == [(1,)]
    roles = [name for (name,) in query(private_cluster.superuser_url, "SELECT rolname FROM pg_roles WHERE rolcanlogin")]
    assert {"postgres", "app_user"} <= set(roles)
    for role in roles:
        for guess in {role, "", "app_user", "postgres", "skeldir_validation"}:
            with pytest.raises(psycopg2.OperationalError):
                psycopg2.connect(private_cluster.tcp_url(role, guess, "postgres"))


def test_two_at_once_and_nothing_left(query: Query) -> None:
    with TemporaryCluster() as one, TemporaryCluster() as two:
        query(one.url(), "CREATE TABLE only_in_one ()")
        assert query(two.url(), "SELECT to_regclass('only_in_one')") == [(None,)]
        assert not one.url().count("port=")
        pids = [one.pid(), two.pid()]
    assert None not in pids
    assert not one.home.exists()
    assert not two.home.exists()
    wait_until(lambda: not any(alive(pid) for pid in pids if pid), 60, "both postmasters to be gone")


def test_addresses_survive_stop_restart_and_crash(private_cluster: TemporaryCluster, query: Query) -> None:
    urls = [private_cluster.url(), private_cluster.tcp_url()]
    query(urls[0], "CREATE TABLE kept (i int); INSERT INTO kept VALUES (7)")
    for fault in (
        private_cluster.stop,
        private_cluster.kill,
        lambda: private_cluster.stop("immediate"),
    ):
        fault()
        assert private_cluster.pid() is None
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(urls[0])
        private_cluster.start()
        assert [query(url, "SELECT i FROM kept") for url in urls] == [[(7,)], [(7,)]]
    before = private_cluster.pid()
    private_cluster.restart()
    assert private_cluster.pid() != before


def test_a_crash_with_a_busy_session_is_recovered(private_cluster: TemporaryCluster, query: Query) -> None:
    """The killed postmaster's children still hold its shared memory; start waits for them."""
    with closing(psycopg2.connect(private_cluster.url(), async_=True)) as busy:
        wait_until(lambda: busy.poll() == psycopg2.extensions.POLL_OK, 60, "the connection")
        busy.cursor().execute("SELECT count(*) FROM generate_series(1, 3000000)")
        private_cluster.kill()
        private_cluster.start()
        assert query(private_cluster.url(), "SELECT 1") == [(1,)]


def test_a_reused_process_id_is_no_obstacle(private_cluster: TemporaryCluster, query: Query) -> None:
    """After a restart of the machine the number in postmaster.pid may belong to anybody."""
    private_cluster.kill()
    account = private_cluster.account
    other = None if account.is_current else account.uid
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=other) as bystander:
        file = private_cluster.data / "postmaster.pid"
        file.write_text("\n".join([str(bystander.pid), *file.read_text().split("\n")[1:]]))
        assert private_cluster.pid() is None
        private_cluster.start()
        assert query(private_cluster.url(), "SELECT 1") == [(1,)]
        assert bystander.poll() is None
        bystander.communicate()


@pytest.mark.parametrize("content", ["", "12345", "12345\n"])
def test_a_pid_file_that_a_power_cut_left_empty_is_no_obstacle(
    private_cluster: TemporaryCluster, query: Query, content: str
) -> None:
    private_cluster.stop()
    (private_cluster.data / "postmaster.pid").write_text(content)
    private_cluster.start()
    assert query(private_cluster.url(), "SELECT 1") == [(1,)]


def test_a_port_that_was_taken_meanwhile_is_replaced(private_cluster: TemporaryCluster, query: Query) -> None:
    private_cluster.stop()
    with socket.create_server(("127.0.0.1", 0)) as thief:
        private_cluster.port = thief.getsockname()[1]
        private_cluster.start()
        assert private_cluster.port != thief.getsockname()[1]
        assert query(private_cluster.tcp_url(), "SELECT 1") == [(1,)]


def test_a_server_that_does_not_start_says_why_in_one_line(private_cluster: TemporaryCluster) -> None:
    private_cluster.stop()
    private_cluster.options = {"shared_buffers": "a lot"}
    with pytest.raises(UserError) as caught:
        private_cluster.start()
    assert "\n" not in str(caught.value)
    assert 'invalid value for parameter "shared_buffers": "a lot"' in str(caught.value)
    assert str(private_cluster.log) in str(caught.value)


def test_the_next_one_removes_what_a_killed_owner_left(python: Python, query: Query) -> None:
    owners = [python(OWNER), python(OWNER)]
    homes, pids = [], []
    for owner in owners:
        assert owner.stdout is not None
        home, pid = owner.stdout.readline().split()
        homes.append(Path(home))
        pids.append(int(pid))
    owners[0].kill()
    owners[0].wait(30)
    assert alive(pids[0])

    with TemporaryCluster():
        assert not homes[0].exists()
        wait_until(lambda: not alive(pids[0]), 60, "the abandoned postmaster to be gone")
        assert postmaster_pid(homes[1] / "data") == pids[1]
    # Not INT: it does nothing where this run was put into the background by a script.
    owners[1].communicate("\n", timeout=30)
    assert owners[1].returncode == 0
    assert not homes[1].exists()


def test_a_sweep_takes_empty_folders_and_leaves_strangers_alone(folder: Path) -> None:
    (folder / "skeldir-pg-empty").mkdir()
    (folder / "skeldir-pg-strange").mkdir()
    (folder / "skeldir-pg-strange" / "file").touch()
    (folder / "skeldir-pg-file").touch()
    sweep(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == ["skeldir-pg-file", "skeldir-pg-strange"]


def test_a_deep_temporary_folder_is_not_used_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.gettempdir())
    deep = short / ("d" * 90)
    assert not socket_fits(deep)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert temporary_root(server_account()) == short


def test_a_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = []

    def fail(cluster: TemporaryCluster) -> None:
        homes.append(cluster.home)
        raise UserError("no")

    monkeypatch.setattr(TemporaryCluster, "provision", fail)
    with pytest.raises(UserError, match="no"), TemporaryCluster():
        pass
    assert not homes[0].exists()
