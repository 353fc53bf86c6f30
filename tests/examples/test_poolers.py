"""The example with a pooler, as its README says, behind a real PgBouncer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from environment.temporary import TemporaryCluster
from environment.testkit.pgbouncer import PgBouncer
from tests.examples.shell import follow
from tests.examples.test_examples import EXAMPLES


def test_the_readme_does_what_it_says(
    private_cluster: TemporaryCluster, program: Callable[[str], str], tmp_path: Path
) -> None:
    folder = shutil.copytree(EXAMPLES / "poolers", tmp_path / "poolers")
    with PgBouncer(program("pgbouncer"), private_cluster) as pgbouncer:
        follow(
            "examples/poolers/README.md", folder, {"DIRECT_URL": private_cluster.tcp_url(), "POOLED_URL": pgbouncer.url}
        )
