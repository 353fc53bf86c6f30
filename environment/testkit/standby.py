"""A standby by streaming replication, which a test can promote."""

from __future__ import annotations

from environment.cluster import APP_DATABASE, APP_ROLE
from environment.errors import UserError
from environment.temporary import TemporaryCluster
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until


class Standby(TemporaryCluster):
    """A context manager: a copy of a running cluster (``pg_basebackup``) that streams its WAL from then on.

    Args:
        primary: the running cluster; the standby has its options and its password.
    """

    def __init__(self, primary: TemporaryCluster) -> None:
        super().__init__(primary.installation.major, tcp=True)
        self.options = dict(primary.options)
        self.password = primary.password
        self._primary = primary

    def initialize(self, *, sync: bool = True) -> None:
        source = self._primary.superuser_url
        program = self.installation.program("pg_basebackup")
        words = ["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"]
        made = self.account.run([program, *words, f"--dbname={source}", "--pgdata", self.data])
        if made.returncode != 0:
            raise UserError(f"pg_basebackup failed: {made.stdout}")

    def provision(self) -> None:
        """Wait for the primary's role and database to arrive."""
        wait_until(lambda: scalar(self._primary.superuser_url, _STREAMING), 30, "the standby to stream")

    def promote(self) -> None:
        """Make it the primary; return when it takes writes."""
        run(self.superuser_url, "SELECT pg_promote()")


def synchronous(primary: TemporaryCluster) -> None:
    """Let each durable commit wait for a standby from now on."""
    run(primary.superuser_url, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    wait_until(lambda: scalar(primary.superuser_url, _SYNCHRONOUS), 30, "the standby to be synchronous")


def url_of_either(one: TemporaryCluster, other: TemporaryCluster) -> str:
    """A URL by which libpq finds the one of the two that takes writes."""
    query = f"host=127.0.0.1,127.0.0.1&port={one.port},{other.port}&target_session_attrs=read-write"
    return f"postgresql://{APP_ROLE}:{one.password}@/{APP_DATABASE}?{query}"


_STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
