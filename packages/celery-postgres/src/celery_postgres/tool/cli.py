"""See what waits and what died, stop and resume a queue, bring back or throw away.

The database is the one of CELERY_BROKER_URL or DATABASE_URL, or else libpq's own (PGHOST and the like): an address on
the command line would be read by everybody on the machine. What destroys something only says what it would do, unless
told --yes. Payloads are shown only by `dead show --payload`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from rich.console import Console

from celery_postgres.database.address import describe, is_postgresql, parsed
from celery_postgres.database.session import Session
from celery_postgres.errors import SchemaError, primary
from celery_postgres.tool.display import Display, visible
from celery_postgres.tool.operator import OperatorError, Tool

#: Somebody waits for the answer and can break it off: what counts a very large backlog may take its time.
_SETTINGS = {"statement_timeout": "10min"}
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: A thousand years. What lies 2,000 years and more back has no date.
_LONGEST_AGE_S = 1_000 * 365 * 86400


def _age(text: str) -> float:
    """Seconds of `90`, `15m`, `2h` or `7d`."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: 90, 15m, 2h or 7d")
    age_s = float(match[1]) * _UNITS_S[match[2] or "s"]
    if age_s > _LONGEST_AGE_S:
        raise argparse.ArgumentTypeError("nothing is older than 365000d")
    return age_s


def _limit(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of dead letters")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m celery_postgres", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    commands = parser.add_subparsers(dest="command")

    def command(
        name: str, method: Callable[[Tool, argparse.Namespace], int], within: Any = commands
    ) -> argparse.ArgumentParser:
        summary = " ".join((method.__doc__ or "").split())
        made: argparse.ArgumentParser = within.add_parser(name, help=summary, description=summary)
        made.set_defaults(method=method)
        return made

    def confirmed(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--yes", action="store_true", help="do it; else only say what would be done")
        return made

    def conditions(made: argparse.ArgumentParser, *, several: bool) -> None:
        made.add_argument("ids", nargs="*", type=int, metavar="ID")
        made.add_argument("--queue")
        made.add_argument("--reason", help="all of it, as the list shows it")
        made.add_argument("--older-than", type=_age, metavar="AGE", help="90, 15m, 2h, 7d")
        if several:
            made.add_argument("--all", action="store_true")

    command("queues", Tool.queues)
    for name, method in (("pause", Tool.pause), ("resume", Tool.resume)):
        command(name, method).add_argument("queue")
    for name, method in (("stop", Tool.stop), ("allow", Tool.allow)):
        command(name, method).add_argument("task", metavar="TASK_NAME")
    command("stopped", Tool.stopped)
    confirmed(command("purge", Tool.purge)).add_argument("queue")
    confirmed(command("cancel", Tool.cancel)).add_argument("task_id")
    command("consumers", Tool.consumers)
    confirmed(command("release", Tool.release)).add_argument("consumer", type=int)
    taken = confirmed(command("taken", Tool.taken))
    taken.add_argument("--older-than", type=_age, default=86400.0, metavar="AGE")
    taken.add_argument("--delete", action="store_true")
    dead = commands.add_parser("dead", help="dead letters: list, show, requeue, purge")
    letters = dead.add_subparsers(dest="dead", required=True)
    listed = command("list", Tool.dead_list, letters)
    conditions(listed, several=False)
    listed.add_argument("--limit", type=_limit, default=50, help="0 for all (%(default)s)")
    shown = command("show", Tool.dead_show, letters)
    shown.add_argument("id", type=int)
    shown.add_argument("--payload", action="store_true", help="with what the producer sent, whatever is in it")
    for name, method in (("requeue", Tool.dead_requeue), ("purge", Tool.dead_purge)):
        conditions(confirmed(command(name, method, letters)), several=True)
    return parser


def main(arguments: Sequence[str] | None = None, dsn: str | None = None) -> int:
    """Run one command; 0, or 1 after one line on standard error, or 2 for words that are no command.

    Parameters:
        dsn: a libpq connection string, instead of what the environment says.
    """
    given = _parser().parse_args(arguments)
    try:
        session = Session(_address() if dsn is None else dsn, _SETTINGS)
        try:
            tool = Tool(session, Display(_console(), as_json=given.json))
            status: int = getattr(given, "method", Tool.queues)(tool, given)
        finally:
            session.close()
    except (OperatorError, SchemaError, ValueError) as error:
        print(f"celery_postgres: {visible(str(error))}", file=sys.stderr)  # noqa: T201
        return 1
    except psycopg2.Error as error:
        where = f"{describe(dsn)}: " if dsn else ""
        print(f"celery_postgres: {where}{visible(primary(error))}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:  # of standard output: a full disk, a terminal that is gone
        with contextlib.suppress(OSError, ValueError):
            # Python writes what is left at its end, and would fail there again, with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"celery_postgres: the answer cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return status


def _console() -> Console:
    """Nothing but a terminal has a width that a name must fit into."""
    out = Console(markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out.width = sys.maxsize
    return out


def _address() -> str:
    url = os.environ.get("CELERY_BROKER_URL") or os.environ.get("DATABASE_URL") or ""
    if not url:
        return ""
    if not is_postgresql(url):
        raise OperatorError("CELERY_BROKER_URL (or DATABASE_URL) is no PostgreSQL address")
    return parsed(url, "broker")
