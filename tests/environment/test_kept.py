"""The kept cluster: data stays, commands share it, the last one out stops it, crashes do not matter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from environment import kept
from environment.account import Account
from environment.cluster import Cluster, postmaster_pid
from environment.errors import UserError
from environment.installation import find_installation
from environment.kept import KeptCluster
from environment.locking import FileLock
from environment.waiting import wait_until

pytestmark = pytest.mark.root

Query = Callable[..., list[tuple[Any, ...]]]
Python = Callable[[str], "subprocess.Popen[str]"]

USER = """
from pathlib import Path
from environment.kept import KeptCluster
with KeptCluster(Path({state!r})) as cluster:
    print(cluster.pid(), flush=True)
    input()
"""

SHARED = """
from pathlib import Path
from environment.kept import KeptCluster
with KeptCluster(Path({state!r})) as cluster:
    print(cluster.pid(), cluster.url(), sep="\\n", flush=True)
    input()
"""


@pytest.fixture
def state(folder: Path) -> Iterator[Path]:
    """A state folder; its server is stopped whatever the test did."""
    yield folder
    if (cluster := KeptCluster.in_state(folder)) is not None:
        cluster.shut_down(patience_s=0)


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_data_stays_and_the_server_does_not(state: Path, query: Query) -> None:
    with KeptCluster(state) as cluster:
        query(cluster.url(), "CREATE TABLE kept (i int); INSERT INTO kept VALUES (7)")
        assert query(cluster.superuser_url, "SHOW fsync") == [("on",)]
        assert query(cluster.superuser_url, "SHOW listen_addresses") == [("",)]
    assert cluster.pid() is None
    with KeptCluster(state) as cluster:
        assert query(cluster.url(), "SELECT i FROM kept") == [(7,)]


def test_the_last_one_out_stops_it(state: Path, query: Query) -> None:
    with KeptCluster(state) as one:
        pid = one.pid()
        with KeptCluster(state) as two:
            assert two.pid() == pid
        assert one.pid() == pid
        assert query(one.url(), "SELECT 1") == [(1,)]
    assert one.pid() is None


def test_many_come_and_go_at_the_same_time(state: Path, python: Python) -> None:
    """First start included: one of them makes the data folder, all see the same server, none is left."""
    users = [python(USER.format(state=str(state))) for _ in range(4)]
    assert len({first_line(user) for user in users}) == 1
    for user in users:
        user.communicate("\n")
    assert [user.returncode for user in users] == [0, 0, 0, 0]
    assert KeptCluster(state).pid() is None


def test_a_killed_user_leaves_a_server_that_the_next_one_stops(state: Path, python: Python) -> None:
    user = python(USER.format(state=str(state)))
    pid = int(first_line(user))
    user.kill()
    user.wait()
    with KeptCluster(state) as cluster:
        assert cluster.pid() == pid
    assert cluster.pid() is None


def test_a_killed_server_is_started_by_the_next_command(state: Path, query: Query) -> None:
    with KeptCluster(state) as cluster:
        query(cluster.url(), "CREATE TABLE kept ()")
        cluster.kill()
        assert cluster.pid() is None
    with KeptCluster(state) as cluster:
        assert query(cluster.url(), "SELECT count(*) FROM kept") == [(0,)]


def test_a_server_killed_under_others_is_started_by_the_next_who_comes(state: Path, python: Python) -> None:
    """Whoever is inside only waits for it, and must not have to leave first."""
    with KeptCluster(state) as cluster:
        cluster.kill()
        user = python(USER.format(state=str(state)))
        wait_until(cluster.pid, 30, "the other one to start it")
        assert int(first_line(user)) == cluster.pid()
        user.communicate("\n", timeout=30)
        assert cluster.pid() is not None
    assert cluster.pid() is None


def test_a_killed_server_is_revived_and_a_running_one_left_alone(state: Path, query: Query) -> None:
    with KeptCluster(state) as cluster:
        assert not cluster.revive()
        cluster.kill()
        assert cluster.revive()
        assert query(cluster.url(), "SELECT 1") == [(1,)]
        cluster.stop()
        with FileLock(state / "postgres.gate") as gate:
            assert gate.try_exclusive()
            assert not cluster.revive()
        shutil.rmtree(cluster.data)
        with pytest.raises(UserError, match="is gone"):
            cluster.revive()


def test_a_gate_that_does_not_open_is_said_and_has_a_deadline(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept, "_QUIET_S", 0.1)
    monkeypatch.setattr(kept, "_GATE_S", 0.2)
    with FileLock(state / "postgres.gate") as gate:
        assert gate.try_exclusive()
        with pytest.raises(TimeoutError, match=r"\./dev to start or stop PostgreSQL"), KeptCluster(state):
            pass
    assert capsys.readouterr().err == "dev: waiting for another ./dev to start or stop PostgreSQL\n"


def test_what_a_first_start_left_undone_is_done(state: Path, query: Query) -> None:
    """Killed in initdb, or between the role and the database."""
    (state / "postgres").mkdir()
    (state / "postgres" / "data.half").mkdir()
    with KeptCluster(state) as cluster:
        query(cluster.superuser_url, "DROP DATABASE skeldir_validation")
    with KeptCluster(state) as cluster:
        assert query(cluster.url(), "SELECT current_user") == [("app_user",)]
    assert not (state / "postgres" / "data.half").exists()


def test_a_user_without_a_name_is_one_clear_line(folder: Path) -> None:
    """As in a container that runs as any number."""
    nameless = Account.of(2**31 - 12345)
    with pytest.raises(UserError, match=r"^the user id 2147471303 has no entry in /etc/passwd, .* set DATABASE_URL"):
        Cluster(find_installation(), nameless, folder).initialize()


def test_data_of_another_major_is_one_clear_line_and_stays(state: Path) -> None:
    with KeptCluster(state) as cluster:
        version = cluster.data / "PG_VERSION"
    version.write_text("11\n")
    with pytest.raises(UserError) as caught, KeptCluster(state):
        pass
    assert "\n" not in str(caught.value)
    assert f"the data in {cluster.data} is of PostgreSQL 11" in str(caught.value)
    assert (cluster.data / "global").is_dir()


def test_two_shells_with_different_temporary_folders_share_a_server(
    state: Path, python: Python, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    """`nix develop` gives each shell a TMPDIR of its own, and this state lies too deep for a socket beside it."""
    deep = state / ("d" * 100)
    deep.mkdir()
    for name in ("one", "two"):
        (state / name).mkdir()
        (state / name).chmod(0o755)

    def shell(name: str) -> subprocess.Popen[str]:
        monkeypatch.setenv("TMPDIR", str(state / name))
        return python(SHARED.format(state=str(deep)))

    first = shell("one")
    pid, url = first_line(first), first_line(first)
    assert pid
    assert url
    second = shell("two")
    assert (first_line(second), first_line(second)) == (pid, url)
    assert query(url, "SELECT 1") == [(1,)]
    first.communicate("\n", timeout=30)
    shutil.rmtree(state / "one")  # as Nix does when the first shell ends
    assert query(url, "SELECT 1") == [(1,)]
    os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: postmaster_pid(deep / "postgres/data") is None, 60, "the server to be gone")
    third = shell("two")
    assert first_line(third) != pid
    assert first_line(third) == url
    for child in (second, third):
        child.communicate("\n", timeout=30)


def test_a_server_whose_socket_lies_elsewhere_is_found_there(state: Path, python: Python, query: Query) -> None:
    """Whatever its folder is called by those who come later."""
    with KeptCluster(state) as cluster:
        elsewhere = state / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        shutil.chown(elsewhere, cluster.account.uid, cluster.account.gid)
        cluster.stop()
        cluster._sockets = elsewhere
        cluster.start()
        later = python(SHARED.format(state=str(state)))
        first_line(later)
        assert query(first_line(later), "SELECT 1") == [(1,)]
        later.communicate("\n", timeout=30)


@pytest.mark.parametrize("name", ["d" * 100, "a comma, a space & a 100 % sign"])
def test_the_state_may_lie_anywhere(state: Path, query: Query, name: str) -> None:
    """Too deep for a socket, or with characters that mean something in a URL: the socket lies elsewhere then."""
    awkward = state / name
    awkward.mkdir()
    with KeptCluster(awkward) as cluster:
        assert query(cluster.url(), "SELECT 1") == [(1,)]
        assert query(PostgresDSN.parse(cluster.url()).libpq(), "SELECT 1") == [(1,)]
        assert not cluster.sockets.is_relative_to(state)
        assert cluster.sockets.stat().st_mode & 0o077 == 0
    assert not cluster.sockets.exists()


def test_a_socket_folder_of_somebody_else_is_refused(state: Path, tmp_path: Path) -> None:
    awkward = state / ("d" * 100)
    awkward.mkdir()
    sockets = KeptCluster(awkward).sockets
    sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(UserError, match="does not belong to us"), KeptCluster(awkward):
            pass
    finally:
        sockets.unlink()


def test_down_ends_it_under_others(state: Path) -> None:
    with KeptCluster(state) as cluster:
        assert KeptCluster(state).shut_down(patience_s=0)
        assert cluster.pid() is None
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(cluster.url())
        assert not KeptCluster(state).shut_down(patience_s=0)


def test_only_its_account_can_enter(state: Path) -> None:
    with KeptCluster(state) as cluster:
        assert cluster.home.stat().st_mode & 0o077 == 0
        assert cluster.home.stat().st_uid == cluster.account.uid != 0 or os.geteuid() != 0
