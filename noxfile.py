"""The package's wheel, installed as other projects install it, and tested in each cell of its `versions.toml`.

`nox --list` lists the cells, `nox --session NAME` tests one, `nox --session NAME -- PYTEST OPTIONS` says what of it.
`./dev matrix` does the same and brings nox along. Without DATABASE_URL each cell starts its own PostgreSQL.
"""

from __future__ import annotations

import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from environment.account import server_account  # noqa: E402
from environment.errors import UserError  # noqa: E402
from environment.installation import find_installation  # noqa: E402
from environment.interpreters import find_python  # noqa: E402
from environment.sources import INSTALLED_PACKAGE  # noqa: E402

PACKAGE = ROOT / "packages" / "celery-postgres"
CELLS: list[dict[str, str]] = tomllib.loads((PACKAGE / "versions.toml").read_text())["cells"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: What the tests import beside the package, in the versions that the workspace allows.
TOOLS = ("hypothesis", "packaging", "pydantic", "pydantic-settings", "pytest", "pytest-xdist", "rich")
#: The drivers of callers' transactions.
DRIVERS = ("asyncpg", "psycopg")
#: Where Celery, Kombu and SQLAlchemy can differ: the tests of a cell, unless others are given.
CORE = (
    "broker/test_messages.py",
    "broker/test_control.py",
    "broker/test_bulk.py",
    "broker/test_publishing_on.py",
    "broker/test_callers.py",
    "broker/test_beat.py",
    "results/test_states.py",
    "results/test_recording.py",
    "results/test_canvas.py",
)
#: What cannot be imported without SQLAlchemy, because it is about SQLAlchemy.
ABOUT_SQLALCHEMY = ("broker/test_publishing_on.py", "broker/test_callers.py", "migrations/test_migrating.py")

nox.options.default_venv_backend = "virtualenv"


def name_of(cell: dict[str, str]) -> str:
    """Such as `python3.11-celery5.4-sqlalchemy1.4-postgresql16`."""
    return "-".join(f"{part}{cell[part]}" for part in ("python", "celery", "sqlalchemy", "postgresql"))


def requirements(cell: dict[str, str]) -> list[str]:
    """What pip installs beside the wheel."""
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    tools = [one for one in declared if one.partition(">")[0] in TOOLS]
    versions = [f"{name}~={cell['celery']}.0" for name in ("celery", "kombu")]
    versions += [one for one in PROJECT["optional-dependencies"]["integrations"] if one.startswith(DRIVERS)]
    if cell["sqlalchemy"] != "none":
        versions.append(f"sqlalchemy[asyncio]~={cell['sqlalchemy']}.0")
    return [*versions, *tools]


def paths(cell: dict[str, str]) -> list[str]:
    """The tests of a cell."""
    left_out = ABOUT_SQLALCHEMY if cell["sqlalchemy"] == "none" else ()
    return [str(PACKAGE / "tests" / path) for path in CORE if path not in left_out]


def missing(session: nox.Session, reason: str) -> NoReturn:
    """Skip the cell, unless SKELDIR_REQUIRE_PROGRAMS says that everything must be there."""
    if os.environ.get("SKELDIR_REQUIRE_PROGRAMS"):
        session.error(reason)
    session.skip(reason)


def server(session: nox.Session, cell: dict[str, str]) -> dict[str, str]:
    """The variables that name the PostgreSQL of a cell: DATABASE_URL's, or programs of this machine."""
    if os.environ.get("DATABASE_URL"):
        return {}
    try:
        found = find_installation(int(cell["postgresql"])).reachable_by(server_account())
    except UserError as error:
        missing(session, str(error))
    return {"SKELDIR_POSTGRES_BIN": str(found.bin), "SKELDIR_POSTGRES_MAJOR": cell["postgresql"]}


def given_wheel() -> Path | None:
    """The wheel in the folder CELERY_POSTGRES_WHEEL, such as the one that is about to be released."""
    folder = os.environ.get("CELERY_POSTGRES_WHEEL")
    if not folder:
        return None
    (wheel,) = (ROOT / folder).glob("celery_postgres-*.whl")
    return wheel


def built_wheel(session: nox.Session, folder: Path) -> Path:
    """The wheel of this checkout."""
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(PACKAGE))
    session.run(*build, external=True)
    (wheel,) = folder.glob("celery_postgres-*.whl")
    return wheel


def test(session: nox.Session, cell: dict[str, str]) -> None:
    """Install the wheel and what the cell names, and run its tests."""
    if session.python is False:
        missing(session, f"this machine has no Python {cell['python']}")
    variables = server(session, cell)
    with tempfile.TemporaryDirectory(prefix="celery-postgres-wheel-") as folder:
        wheel = given_wheel() or built_wheel(session, Path(folder))
        session.install(f"{wheel}[binary]", *requirements(cell))
        # With --reuse-venv there is one of the same version already.
        session.install("--no-deps", "--force-reinstall", str(wheel))
    session.run("python", "-c", "import celery, kombu; print('Celery', celery.__version__, 'Kombu', kombu.__version__)")
    session.run(
        *("python", "-m", "pytest", "-o", "pythonpath=backend .", "-n", "4", "--dist", "loadgroup"),
        *(session.posargs or paths(cell)),
        env={**variables, INSTALLED_PACKAGE: "1", "PYTHONPATH": ""},
    )


for one in CELLS:
    python = find_python(one["python"])
    nox.session(name=name_of(one), python=False if python is None else str(python))(
        lambda session, cell=one: test(session, cell)
    )
nox.options.sessions = [name_of(one) for one in CELLS if one["tested"] == "ci"]
