"""A Django project in processes of its own: its settings come from the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from environment.testkit.distribution import declare

#: Django is an extra.
collect_ignore_glob = [] if find_spec("django") else ["test_*.py"]

PROJECT = Path(__file__).parent / "project"


def settings_of(url: str, **more: Any) -> dict[str, Any]:
    """The member of DATABASES for a URL."""
    given = parse_dsn(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        "HOST": given.get("host", ""),
        "PORT": given.get("port", ""),
        **more,
    }


class Project:
    """A Django project, and its commands.

    Attributes:
        databases: DATABASES.
        settings: further settings.
        folder: where its modules are.
    """

    def __init__(self, folder: Path, databases: dict[str, Any], driver: str = "psycopg") -> None:
        self.databases = databases
        self.settings: dict[str, Any] = {}
        self.folder = PROJECT
        self._without = folder / "without"
        installed = folder / "installed"
        installed.mkdir(exist_ok=True)
        self._installed = installed if any(installed.iterdir()) else declare(installed)
        if driver == "psycopg2":
            self._without.mkdir()
            (self._without / "psycopg.py").write_text("raise ImportError('this test is about psycopg2')\n")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DATABASE_URL"))},
            "PYTHONPATH": os.pathsep.join([str(self._without), str(self._installed), str(PROJECT), *sys.path]),
            "PYTHONWARNINGS": "error",
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PROJECT_DATABASES": json.dumps(self.databases),
            "PROJECT_SETTINGS": json.dumps(self.settings),
        }

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python words`, in the project's folder."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def manage(self, *words: str) -> str:
        """`manage.py words`: what it prints, which must be a success."""
        done = self.call("manage.py", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def refused(self, *words: str) -> str:
        """`manage.py words`: what it prints, which must be a failure."""
        done = self.call("manage.py", *words)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def run(self, program: str) -> str:
        """What a program prints after `django.setup()`; it must succeed."""
        done = self.call("-c", f"import django; django.setup()\n{program}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture
def empty_database(fresh: Any) -> Iterator[Any]:
    with fresh() as database:
        yield database


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """``make_project(default=url, other=url)``: a project with these databases."""

    def make(driver: str = "psycopg", **urls: str) -> Project:
        return Project(tmp_path, {alias: settings_of(url) for alias, url in urls.items()}, driver)

    return make


@pytest.fixture
def project(make_project: Callable[..., Project], empty_database: Any) -> Project:
    """A project on an empty database."""
    return make_project(default=empty_database.url)
