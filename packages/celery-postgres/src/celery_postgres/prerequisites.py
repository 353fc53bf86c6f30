"""What must be installed before this package can work. Each refusal is one line that says what to do.

Python reads this module before any other of the package, also a Python that is too old: so it uses no syntax that is
newer than Python 3.6.
"""

import sys
from importlib.util import find_spec

#: The oldest Python; Celery's and Kombu's oldest version, and the first that is not supported.
PYTHON = (3, 11)
UPSTREAM = ((5, 4), (5, 8))


def require_all() -> None:
    """Refuse to be imported where the package cannot work.

    Raises:
        ImportError: Python, Celery or Kombu has a version that is not supported.
        ModuleNotFoundError: there is no driver.
    """
    _require_python(sys.version_info[:2])
    if find_spec("psycopg2") is None:
        _refuse(
            "celery_postgres needs the driver psycopg2: pip install 'celery-postgres[binary]', or [psycopg2] "
            "to build it against the libpq of this machine",
            ModuleNotFoundError,
            "psycopg2",
        )
    import celery
    import kombu

    for name, module in (("celery", celery), ("kombu", kombu)):
        _require_upstream(name, module.__version__)


def both_drivers() -> "str | None":
    """One line, if both distributions of the driver are installed; each has overwritten files of the other."""
    from importlib.metadata import PackageNotFoundError, distribution

    for name in ("psycopg2", "psycopg2-binary"):
        try:
            distribution(name)
        except PackageNotFoundError:
            return None
    return (
        "psycopg2 and psycopg2-binary are both installed, and each overwrites files of the other: "
        "pip uninstall --yes psycopg2 psycopg2-binary, then install one of them"
    )


def _require_python(version: "tuple[int, ...]") -> None:
    if version < PYTHON:
        found, needed = (".".join(map(str, one)) for one in (version, PYTHON))
        _refuse(
            f"celery_postgres needs Python {needed} or newer, and this is {found}: "
            "make a virtual environment with a newer one",
            ImportError,
            "celery_postgres",
        )


def _require_upstream(name: str, installed: str) -> None:
    """By the first two numbers: a pre-release of a version counts as that version."""
    first, end = UPSTREAM
    found = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in installed.split(".")[:2])
    if not first <= found < end:
        _refuse(
            f"celery_postgres works with {name} {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}, and {installed} is "
            f"installed: pip install '{name}>={first[0]}.{first[1]},<{end[0]}.{end[1]}'",
            ImportError,
            name,
        )


def _refuse(text: str, kind: "type[ImportError]", name: str) -> None:
    words = getattr(sys, "orig_argv", ())
    if any(pair == ("-m", "celery_postgres") for pair in zip(words, words[1:])):  # noqa: B905, RUF007  both are newer
        sys.exit(f"celery_postgres: {text}")
    raise kind(text, name=name)
