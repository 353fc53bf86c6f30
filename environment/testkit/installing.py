"""The package's wheel, virtual environments without this checkout, and the Pythons of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from environment.interpreters import find_python
from environment.sources import CHECKOUT
from environment.testkit.machine import unavailable

PACKAGE = CHECKOUT / "packages/celery-postgres"


def call(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program without this checkout's PYTHONPATH; ``url`` is its DATABASE_URL."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SKELDIR_"))}
    return subprocess.run(
        [str(word) for word in words],
        env=variables | {"DATABASE_URL": options.pop("url", "")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def build_wheel(folder: Path) -> Path:
    """The package's wheel, built by pip into ``folder``."""
    done = call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, PACKAGE)
    if done.returncode:
        unavailable(f"pip cannot build the wheel here, which needs hatchling: {done.stderr[-500:]}")
    (built,) = folder.glob("celery_postgres-*.whl")
    return built


def new_venv(folder: Path) -> Path:
    """Make a virtual environment; return its Python."""
    made = call(sys.executable, "-m", "venv", folder)
    assert made.returncode == 0, made.stderr
    return folder / "bin" / "python"


def pip_install(python: Path, *requirements: str) -> None:
    """Install, or skip where no package index is reachable."""
    done = call(python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *requirements)
    if done.returncode:
        unavailable(f"pip cannot install {requirements} here: {done.stderr[-500:]}")


def would_install(python: Path, *requirements: str) -> tuple[dict[str, str], str]:
    """The names and versions that pip would install into an environment without packages, and what pip warned of."""
    words = ("--no-input", "--disable-pip-version-check", "--dry-run", "--ignore-installed", "--quiet")
    done = call(python, "-m", "pip", "install", *words, "--report", "-", *requirements)
    if done.returncode:
        unavailable(f"pip cannot resolve {requirements} here: {done.stderr[-500:]}")
    found = [one["metadata"] for one in json.loads(done.stdout)["install"]]
    return {one["name"].lower(): one["version"] for one in found}, done.stderr


def other_python(version: str) -> Path:
    """A Python of this machine in another version, or skip: .ci/programs could install none."""
    found = find_python(version)
    if found is None:
        pytest.skip(f"this machine has no Python {version}")
    return found
