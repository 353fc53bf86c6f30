"""Three PostgreSQL nodes under Debian's Patroni, with Debian's etcd, configured as the guide tells operators to."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg2

from environment.account import Account, server_account
from environment.cluster import APP_DATABASE, APP_ROLE, free_port
from environment.installation import DEFAULT_MAJOR
from environment.lifetime import Lifetime
from environment.provision import provision
from environment.sources import CHECKOUT
from environment.temporary import TemporaryCluster
from environment.testkit.children import end, serve
from environment.testkit.proxy import Proxy
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

_GUIDE = CHECKOUT / "docs" / "guides" / "high-availability.md"
#: Seconds for a start, a failover or a return; all take less than ten on an idle machine.
_DEADLINE_S = 120
#: Patroni's times for tests, in seconds. The guide's would make each failover 15 s longer.
_HURRIED = {"ttl": 6, "loop_wait": 1, "retry_timeout": 2}
_STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
_WRITABLE = "SELECT NOT pg_is_in_recovery()"


def block_of_guide(name: str) -> str:
    """The block of the guide whose first line is the comment ``# NAME``."""
    found = re.search(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```$", _GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{_GUIDE.name} has no block {name}"
    return found[1]


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The text with each key replaced by its value.  A key that the text lacks is an error: the guide has changed."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Etcd(Lifetime):
    """A context manager: one etcd server; operators run three."""

    def __init__(self, program: str, account: Account) -> None:
        self.port, self._peers = free_port(), free_port()
        self._program, self._account = program, account
        self._folder = Path(tempfile.mkdtemp(prefix="faults-etcd-"))
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start it; return when it answers."""
        if not self._account.is_current:
            os.chown(self._folder, self._account.uid, self._account.gid)
        clients, peers = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peers}"
        words = {
            "name": "etcd1",
            "data-dir": str(self._folder / "data"),
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"etcd1={peers}",
        }
        command = [self._program, *(f"--{name}={value}" for name, value in words.items())]
        self._process = serve(command, env={"LC_ALL": "C"}, cwd="/", **as_account(self._account))
        wait_until(lambda: status_of(self.port, "/health") == 200, 30, "etcd to answer")

    def close(self) -> None:
        """Kill it and remove its files."""
        if self._process is not None:
            end(self._process, 0)
        shutil.rmtree(self._folder, ignore_errors=True)


class Node(TemporaryCluster):
    """One PostgreSQL with its Patroni.  Clients reach it at ``port``, the other nodes and etcd only through proxies.

    Args:
        name: of the member.
        etcd: the port of etcd.
        patroni: the path of Patroni's program.
        passwords: what the nodes have in common: placeholder of the guide → password.
        hurried: whether Patroni notices faults in seconds, instead of with the guide's times.
    """

    def __init__(self, name: str, etcd: int, patroni: str, passwords: Mapping[str, str], *, hurried: bool) -> None:
        super().__init__(DEFAULT_MAJOR, tcp=True)
        self.name, self.rest = name, free_port()
        self.configuration = self.home / "patroni.yml"
        self._program = patroni
        self._passwords, self._hurried = dict(passwords), hurried
        self._process: subprocess.Popen[bytes] | None = None
        self._isolated = False
        self._stack = ExitStack()
        self._to_etcd, self._to_server, self._to_rest = (
            Proxy(("127.0.0.1", port)) for port in (etcd, self.port, self.rest)
        )

    def open(self) -> None:
        """Write the configuration, and start."""
        for proxy in self._proxies:
            self._stack.enter_context(proxy)
        self.configuration.write_text(self._configuration())
        if not self.account.is_current:
            os.chown(self.configuration, self.account.uid, self.account.gid)
        self.start()

    def start(self) -> None:
        """Start Patroni, unless it runs; it starts PostgreSQL. Does not wait."""
        if self._process is not None:
            return
        with (self.home / "patroni.log").open("ab") as log:
            self._process = serve(
                [self._program, str(self.configuration)],
                env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
                **as_account(self.account),
            )

    def kill(self) -> None:
        """``kill -9`` of Patroni and of PostgreSQL."""
        self.kill_patroni()
        super().kill()

    def kill_patroni(self) -> None:
        """``kill -9`` of Patroni alone: PostgreSQL goes on without it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop both, and remove the files."""
        self.kill_patroni()
        super().close()
        self._stack.close()

    def isolate(self) -> None:
        """Lose every packet between this node and the others, and etcd; clients still reach it."""
        self._isolated = True
        for proxy in self._proxies:
            proxy.stall()

    def rejoin(self) -> None:
        """End the partition, if there is one.  The connections of the time before are reset, as those that timed out
        would be."""
        if not self._isolated:
            return
        self._isolated = False
        for proxy in self._proxies:
            proxy.resume()
            proxy.cut()

    def is_leader(self) -> bool:
        """Whether its Patroni says that it is the primary."""
        return status_of(self.rest, "/primary") == 200

    def log_text(self) -> str:
        """What Patroni has logged."""
        return (self.home / "patroni.log").read_text(errors="replace")

    @property
    def _proxies(self) -> tuple[Proxy, ...]:
        return self._to_etcd, self._to_server, self._to_rest

    def _configuration(self) -> str:
        changes = {
            "name: pg1": f"name: {self.name}",
            "listen: pg1:8008": f"listen: 127.0.0.1:{self.rest}",
            "connect_address: pg1:8008": f"connect_address: 127.0.0.1:{self._to_rest.port}",
            # Otherwise Patroni asks etcd for its own address, and goes past the proxy.
            "hosts: [etcd1:2379, etcd2:2379, etcd3:2379]": (
                f"hosts: [127.0.0.1:{self._to_etcd.port}]\n  use_proxies: true"
            ),
            "listen: pg1:5432": f"listen: 127.0.0.1:{self.port}",
            "connect_address: pg1:5432": f"connect_address: 127.0.0.1:{self._to_server.port}",
            "bin_dir: /usr/lib/postgresql/16/bin": f"bin_dir: {self.installation.bin}",
            "data_dir: /var/lib/postgresql/16/celery": (
                f"data_dir: {self.data}\n  pgpass: {self.home / 'pgpass'}\n"
                f"  parameters:\n    unix_socket_directories: {self.sockets}"
            ),
            # The tests' own account is not called postgres.
            "local all postgres peer": "local all postgres trust",
            **self._passwords,
        }
        if self._hurried:
            guide = block_of_guide("patroni.yml")
            for name, seconds in _HURRIED.items():
                line = re.search(rf"{name}: \d+", guide)
                assert line is not None, name
                changes[line[0]] = f"{name}: {seconds}"
        return replaced(block_of_guide("patroni.yml"), changes)


class Patroni(Lifetime):
    """A context manager: three nodes, one of which leads, with the application's role and an empty database.

    Args:
        program: gives the path of a program by its name.
        hurried: whether Patroni notices faults in seconds, instead of with the guide's times.
    """

    def __init__(self, program: Callable[[str], str], *, hurried: bool = True) -> None:
        self._control = program("patronictl")
        self._patroni = program("patroni")
        self._etcd = Etcd(program("etcd"), server_account())
        self._hurried = hurried
        self._stack = ExitStack()
        self._is_synchronous = True
        self.password = secrets.token_urlsafe(24)
        self.nodes: list[Node] = []
        self._databases = 0

    def open(self) -> None:
        """Start etcd and the nodes; return when one leads and the others stream."""
        self._stack.enter_context(self._etcd)
        words = ("REST_PASSWORD", "SUPERUSER_PASSWORD", "REPLICATOR_PASSWORD")
        passwords = {word: secrets.token_hex(16) for word in words}
        for number in (1, 2, 3):
            node = Node(f"pg{number}", self._etcd.port, self._patroni, passwords, hurried=self._hurried)
            self.nodes.append(self._stack.enter_context(node))
        leader = self.leader()
        provision(leader.superuser_url, APP_ROLE, self.password, APP_DATABASE)
        self.wait_complete()

    def close(self) -> None:
        """Stop all of them."""
        self._stack.close()

    @property
    def ttl_s(self) -> int:
        """After how many seconds at most a leader that reaches etcd no more has given up."""
        found = re.search(r"ttl: (\d+)", self.nodes[0].configuration.read_text())
        assert found is not None
        return int(found[1])

    def leader(self, but: Node | None = None) -> Node:
        """Wait for a leader that takes writes, other than ``but``, and return it."""

        def found() -> Node | None:
            leaders = [node for node in self.nodes if node is not but and node.is_leader()]
            with suppress(psycopg2.Error):  # it is just being promoted
                return next((node for node in leaders if scalar(node.superuser_url, _WRITABLE)), None)
            return None

        return self._wait(found, "a leader")

    def wait_complete(self) -> Node:
        """Wait until both standbys stream from the leader, one of them synchronously if that is configured; returns
        the leader."""

        def complete() -> Node | None:
            leaders = [node for node in self.nodes if node.is_leader()]
            with suppress(psycopg2.Error):  # a server is just restarting
                streams = len(leaders) == 1 and scalar(leaders[0].superuser_url, _STREAMING) == len(self.nodes) - 1
                return leaders[0] if streams and self._replicates_as_configured() else None
            return None

        return self._wait(complete, "both standbys to stream")

    def repair(self) -> None:
        """Start what was killed, and end partitions; returns when all three nodes are there."""
        for node in self.nodes:
            node.rejoin()
            node.start()
        self.wait_complete()

    def configure(self, mode: str) -> None:
        """Make replication ``asynchronous``, ``synchronous`` or ``strict``; returns when it is."""
        self._is_synchronous = mode != "asynchronous"
        settings = {"synchronous_mode": self._is_synchronous, "synchronous_mode_strict": mode == "strict"}
        words = [word for name, value in settings.items() for word in ("-s", f"{name}={str(value).lower()}")]
        self.control("edit-config", "--force", *words)
        self.wait_complete()

    def _replicates_as_configured(self) -> bool:
        return any(status_of(node.rest, "/synchronous") == 200 for node in self.nodes) == self._is_synchronous

    def _wait(self, found: Callable[[], Node | None], what: str) -> Node:
        try:
            node = wait_until(found, _DEADLINE_S, what, 0.1)
        except TimeoutError as error:
            logs = "\n".join(f"{node.name}: {node.log_text()[-2000:]}" for node in self.nodes)
            raise TimeoutError(f"{error}\n{logs}") from None
        assert node is not None
        return node

    def control(self, command: str, *words: str) -> str:
        """Run ``patronictl``, as an operator would, and return what it prints."""
        done = server_account().run([self._control, "-c", self.nodes[0].configuration, command, "celery", *words])
        assert done.returncode == 0, done.stdout
        return done.stdout

    def switchover(self) -> Node:
        """Have another node lead, by plan; returns it."""
        before = self.leader()
        self.control("switchover", "--leader", before.name, "--force")
        return self.leader(but=before)

    def create_database(self) -> str:
        """Create an empty database that belongs to the application's role; returns its name.

        It is on all nodes then: libpq tries no other host once a server has told it that there is no such database.
        """
        self._databases += 1
        name = f"{APP_DATABASE}_{self._databases}"
        run(self.wait_complete().superuser_url, f"CREATE DATABASE {name} OWNER {APP_ROLE}")
        known = "SELECT count(*) FROM pg_database WHERE datname = :name"
        wait_until(
            lambda: all(scalar(node.superuser_url, known, name=name) for node in self.nodes),
            _DEADLINE_S,
            "the database to be on all nodes",
        )
        return name

    def url(self, database: str) -> str:
        """A URL by which libpq finds the leader."""
        hosts, ports = ",".join("127.0.0.1" for _ in self.nodes), ",".join(str(node.port) for node in self.nodes)
        query = f"host={hosts}&port={ports}&target_session_attrs=read-write"
        return f"postgresql://{APP_ROLE}:{self.password}@/{database}?{query}"


def as_account(account: Account) -> dict[str, object]:
    """Options of ``Popen`` that run a process as this account."""
    if account.is_current:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def status_of(port: int, path: str) -> int | None:
    """The status that an HTTP server of this machine answers with; None without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
