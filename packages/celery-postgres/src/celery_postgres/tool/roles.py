"""The command `roles`: print the SQL of the roles, or run it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery_postgres.database.rights import roles_script, run_script
from celery_postgres.tool.display import visible
from celery_postgres.tool.operator import OperatorError


def register(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    summary = "print the SQL that makes the roles and grants them their rights; with --run, run it in the database"
    made = commands.add_parser("roles", help=summary, description=summary)
    made.add_argument(
        "--run",
        nargs="?",
        const="",
        metavar="FILE",
        help="run it, or FILE: as a role that may create roles, and after each migration as the owner of the tables",
    )


def print_or_run(given: argparse.Namespace, address: Callable[[], str]) -> None:
    """Print the script, which needs no database, or run it in one transaction.

    Raises:
        OperatorError: the file cannot be read.
    """
    if given.run is None:
        print(roles_script(), end="")  # noqa: T201
        return
    try:
        script = Path(given.run).read_text(encoding="utf-8") if given.run else roles_script()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OperatorError(f"{given.run} cannot be read: {reason}") from None
    for notice in run_script(address(), script):
        print(visible(notice), file=sys.stderr)  # noqa: T201
    print("the roles have their rights", flush=True)  # noqa: T201
