"""The example with two databases, as its README says, on two servers."""

from __future__ import annotations

import shutil
from pathlib import Path

from environment.temporary import TemporaryCluster
from tests.examples.shell import follow
from tests.examples.test_examples import EXAMPLES


def test_the_readme_does_what_it_says(private_cluster: TemporaryCluster, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / "several-databases", tmp_path / "several-databases")
    with TemporaryCluster() as other:
        follow("examples/several-databases/README.md", folder, {"EU_URL": private_cluster.url(), "US_URL": other.url()})
