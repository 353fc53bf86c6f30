"""Programs that the machine may lack, and the files of ops/ as data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.checkout import CHECKOUT

PROMETHEUS = CHECKOUT / "ops/prometheus"


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a program; skips where it is missing, unless SKELDIR_REQUIRE_PROGRAMS says that it must be there."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            reason = f"this machine has no {name} (.ci/programs installs it; .ci/run does so and runs these)"
            (pytest.fail if os.environ.get("SKELDIR_REQUIRE_PROGRAMS") else pytest.skip)(reason)
        return str(found)

    return find


@pytest.fixture(scope="session")
def load_yaml() -> Callable[[Path], Any]:
    """A function that reads a YAML file."""
    yaml = pytest.importorskip("ruamel.yaml", reason="it comes with check-jsonschema, which nixpkgs lacks")
    return lambda path: yaml.YAML(typ="safe", pure=True).load(path.read_text())


@pytest.fixture(scope="session")
def alerts(load_yaml: Callable[[Path], Any]) -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    groups = load_yaml(PROMETHEUS / "celery.rules.yml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
