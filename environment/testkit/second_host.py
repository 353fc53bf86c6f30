"""A second host: a network namespace whose link to this one a test can cut."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import suppress

from environment.lifetime import Lifetime
from environment.temporary import TemporaryCluster


class SecondHost(Lifetime):
    """A context manager: a network namespace on a bridge of this machine.  Needs root.

    Args:
        ip: the path of iproute2's ``ip``.

    Attributes:
        server: the address of this machine, as the second host sees it.
        address: the address of the second host.
        before: the words before a command that is to run there.
    """

    def __init__(self, ip: str) -> None:
        mark = secrets.token_hex(3)
        self._ip = ip
        self.name = f"faults-{mark}"
        self._bridge, self._port, self._far = f"fb{mark}", f"fp{mark}", f"ff{mark}"
        # 198.18.0.0/15 is set aside for tests of networks (RFC 2544): no real network uses them.
        network = f"198.18.{secrets.randbelow(256)}"
        self.server, self.address = f"{network}.1", f"{network}.2"
        self.before = [ip, "netns", "exec", self.name]

    def cut(self) -> None:
        """Lose every packet without telling either side: the bridge drops the port."""
        self._run("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Let packets arrive again."""
        self._run("link", "set", self._port, "master", self._bridge)

    def admit(self, cluster: TemporaryCluster) -> None:
        """Let a server accept connections from this host, with passwords; restarts it."""
        cluster.options["listen_addresses"] = f"127.0.0.1,{self.server}"
        with (cluster.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.address}/32 scram-sha-256\n")
        cluster.restart()

    def url(self, cluster: TemporaryCluster) -> str:
        """The server's URL, as this host reaches it."""
        return cluster.tcp_url().replace("@127.0.0.1:", f"@{self.server}:")

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)

    def open(self) -> None:
        """Create the namespace, the bridge and the link."""
        self._run("netns", "add", self.name)
        self._run("link", "add", self._bridge, "type", "bridge")
        self._run("address", "add", f"{self.server}/30", "dev", self._bridge)
        self._run("link", "set", self._bridge, "up")
        self._run("link", "add", self._port, "type", "veth", "peer", "name", self._far, "netns", self.name)
        self._run("link", "set", self._port, "master", self._bridge, "up")
        self._run("-n", self.name, "address", "add", f"{self.address}/30", "dev", self._far)
        self._run("-n", self.name, "link", "set", self._far, "up")
        self._run("-n", self.name, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove all three."""
        for words in (["link", "del", self._port], ["link", "del", self._bridge], ["netns", "del", self.name]):
            with suppress(subprocess.CalledProcessError):
                self._run(*words)
