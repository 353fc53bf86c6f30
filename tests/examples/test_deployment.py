"""The units of the guide to deployment are valid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from environment.sources import CHECKOUT

FOLDER = CHECKOUT / "examples/deployment"


@pytest.mark.parametrize("name", ["celery-worker", "celery-beat"])
def test_a_unit_is_valid(name: str, program: Callable[[str], str], tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.service").read_text()
    here = text.replace("/srv/mine/.venv/bin/celery", "/usr/bin/env celery").replace("/srv/mine", str(tmp_path))
    unit = tmp_path / f"{name}.service"
    unit.write_text(here.replace("User=mine\n", ""))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_password_of_compose_is_in_no_url() -> None:
    """Any text may be one, and it is written down once: the database's volume keeps the first."""
    text = (FOLDER / "compose.yaml").read_text()
    assert "    DATABASE_URL: postgresql://postgres@postgres/postgres\n    PGPASSWORD: ${POSTGRES_PASSWORD}\n" in text
    assert 'echo "POSTGRES_PASSWORD=' in (CHECKOUT / "docs/guides/containers.md").read_text()


def test_compose_follows_its_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="nixpkgs has no Python package check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
