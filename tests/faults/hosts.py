"""A second host: a network namespace whose link to this one can be cut."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import suppress
from types import TracebackType
from typing import Self

from environment.temporary import TemporaryCluster


class Host:
    """A context manager: a network namespace on a bridge of this machine's.  It needs root.

    :param ip: the path of iproute2's ``ip``.
    :ivar server: the address of this machine, as that host sees it.
    :ivar before: what stands before a command that is to run there.
    """

    def __init__(self, ip: str) -> None:
        mark = secrets.token_hex(3)
        self._ip = ip
        self.name = f"faults-{mark}"
        self._bridge, self._port, self._far = f"fb{mark}", f"fp{mark}", f"ff{mark}"
        # 198.18.0.0/15 is set aside for tests of networks (RFC 2544): nobody's own.
        network = f"198.18.{secrets.randbelow(256)}"
        self.server, self.address = f"{network}.1", f"{network}.2"
        self.before = [ip, "netns", "exec", self.name]

    def cut(self) -> None:
        """Every packet is lost, and neither side is told: the switch forgets the port."""
        self._run("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Packets arrive again."""
        self._run("link", "set", self._port, "master", self._bridge)

    def admit(self, cluster: TemporaryCluster) -> None:
        """Have a server listen for this host, with passwords; it is restarted."""
        cluster.options["listen_addresses"] = f"127.0.0.1,{self.server}"
        with (cluster.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.address}/32 scram-sha-256\n")
        cluster.restart()

    def url(self, cluster: TemporaryCluster) -> str:
        """A server's address, for this host."""
        return cluster.tcp_url().replace("@127.0.0.1:", f"@{self.server}:")

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)

    def __enter__(self) -> Self:
        try:
            self._run("netns", "add", self.name)
            self._run("link", "add", self._bridge, "type", "bridge")
            self._run("address", "add", f"{self.server}/30", "dev", self._bridge)
            self._run("link", "set", self._bridge, "up")
            self._run("link", "add", self._port, "type", "veth", "peer", "name", self._far, "netns", self.name)
            self._run("link", "set", self._port, "master", self._bridge, "up")
            self._run("-n", self.name, "address", "add", f"{self.address}/30", "dev", self._far)
            self._run("-n", self.name, "link", "set", self._far, "up")
            self._run("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for words in (["link", "del", self._port], ["link", "del", self._bridge], ["netns", "del", self.name]):
            with suppress(subprocess.CalledProcessError):
                self._run(*words)
