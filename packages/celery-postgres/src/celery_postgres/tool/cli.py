"""The words of the queue tool, and whose database it asks."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_postgres.database import driver
from celery_postgres.database.address import describe, is_postgresql, parsed
from celery_postgres.database.session import Session
from celery_postgres.errors import SchemaError, primary
from celery_postgres.readmodel import CursorError
from celery_postgres.tool import fleet_commands, flow_commands, migrate, recording, roles, views
from celery_postgres.tool.display import Display, visible
from celery_postgres.tool.operator import Operator, OperatorError

if TYPE_CHECKING:
    from rich.console import Console

#: A person waits for the answer and can interrupt it, so counting a very large backlog may take long.
_SETTINGS = {"statement_timeout": "10min"}
_PURPOSE = "Inspect queues, consumers and dead letters; pause queues, block tasks, cancel, requeue and delete messages."
_CARE = (
    "Destructive commands are dry runs unless you pass --yes. Only `dead show --payload` prints a payload. Without a "
    "command, the queues are listed."
)
#: The variables that may hold the URL of the database, the first before the others.
_VARIABLES = ("CELERY_BROKER_URL", "DATABASE_URL")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: A thousand years. PostgreSQL's Python driver has no date for what lies 2,000 years back.
_LONGEST_AGE_S = 1_000 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Program:
    """The program that the tool is part of.

    Attributes:
        name: what a person types before the command.
        database: which database it asks, for its help.
        more: what else the program does, for its help.
        app: the Celery application, if it is known.
    """

    name: str
    database: str
    more: str | None = None
    app: Any = None


ALONE = Program(
    "python -m celery_postgres",
    "The database is that of CELERY_BROKER_URL or DATABASE_URL, else libpq's default (PGHOST and the like); it is "
    "never an argument, which every user of the machine could read.",
    "`run -- PROGRAM ...` starts a program that makes its own Celery app from a URL: see `run --help`.",
)


def _age(text: str) -> float:
    """Seconds of `90`, `15m`, `2h` or `7d`."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write 90, 15m, 2h or 7d")
    age_s = float(match[1]) * _UNITS_S[match[2] or "s"]
    if age_s > _LONGEST_AGE_S:
        raise argparse.ArgumentTypeError("nothing is older than 365000d")
    return age_s


def _variable(name: str) -> str:
    """The connection string of the URL in a variable of the environment."""
    if not re.fullmatch(r"[A-Za-z_]\w{0,99}", name) or not os.environ.get(name):
        raise argparse.ArgumentTypeError("it is the name of a variable of the environment with the URL in it")
    try:
        return libpq_address(name, os.environ[name])
    except (OperatorError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _limit(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _parser(program: Program = ALONE) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program.name, description=f"{_PURPOSE} {program.database} {_CARE}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, method: Callable[[Operator, argparse.Namespace], int], within: Any = commands
    ) -> argparse.ArgumentParser:
        summary = " ".join((method.__doc__ or "").split())
        made: argparse.ArgumentParser = within.add_parser(name, help=summary, description=summary)
        made.set_defaults(method=method)
        return made

    def confirmed(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--yes", action="store_true", help="do it; without this, a dry run")
        return made

    def conditions(made: argparse.ArgumentParser, *, several: bool) -> None:
        made.add_argument("ids", nargs="*", type=int, metavar="ID")
        made.add_argument("--queue")
        made.add_argument("--task", metavar="NAME", help="the whole name of the task")
        made.add_argument("--reason", help="the whole reason, as `dead list` shows it")
        made.add_argument("--older-than", type=_age, metavar="AGE", help="90, 15m, 2h, 7d")
        if several:
            made.add_argument("--all", action="store_true")

    views.register(command, _age, _limit)
    for name, method in (("pause", Operator.pause), ("resume", Operator.resume)):
        command(name, method).add_argument("queue")
    for name, method in (("stop", Operator.stop), ("allow", Operator.allow)):
        command(name, method).add_argument("task", metavar="TASK_NAME")
    purged = confirmed(command("purge", flow_commands.purge))
    purged.add_argument("queue")
    purged.add_argument("--key", help="only messages of this key")
    moved = confirmed(command("move", Operator.move))
    moved.add_argument("queue")
    moved.add_argument("--to", type=_variable, required=True, metavar="VARIABLE", help="it has the other URL")
    confirmed(command("cancel", Operator.cancel)).add_argument("task_id")
    confirmed(command("release", Operator.release)).add_argument("consumer", type=int)
    taken = confirmed(command("taken", Operator.taken))
    taken.add_argument("--older-than", type=_age, default=86400.0, metavar="AGE")
    taken.add_argument("--delete", action="store_true")
    dead = commands.add_parser("dead", help="list, show, requeue or purge dead letters, see below")
    letters = dead.add_subparsers(dest="dead", required=True, metavar="COMMAND")
    listed = command("list", Operator.dead_list, letters)
    conditions(listed, several=False)
    listed.add_argument("--limit", type=_limit, default=50, help="0 for all (%(default)s)")
    shown = command("show", Operator.dead_show, letters)
    shown.add_argument("id", type=int)
    shown.add_argument("--payload", action="store_true", help="also print what the producer sent")
    for name, method in (("requeue", Operator.dead_requeue), ("purge", Operator.dead_purge)):
        conditions(confirmed(command(name, method, letters)), several=True)
    flow_commands.register(commands, command)
    fleet_commands.register(command)
    migrate.register(commands)
    roles.register(commands)
    within = " ".join(f"`dead {name}`: {one.description}" for name, one in letters.choices.items())
    parser.epilog = " ".join(filter(None, [within, program.more]))
    return parser


def main(arguments: Sequence[str] | None = None, dsn: str | None = None, program: Program = ALONE) -> int:
    """Run one command.

    Args:
        arguments: the words of the command; those of this process by default.
        dsn: a libpq connection string, instead of the one in the environment.
        program: the program that this is part of.

    Returns:
        The exit status: 0, or 1 after one line on standard error.

    Raises:
        SystemExit: 2, if the words are not a command.
    """
    given = _parser(program).parse_args(arguments)
    try:
        if hasattr(given, "migration"):
            return int(given.migration(_address() if dsn is None else dsn, given))
        if given.command == "roles":
            roles.print_or_run(given, lambda: _address() if dsn is None else dsn)
            return 0
        console = None if given.json else _console()
        session = Session(_address() if dsn is None else dsn, _SETTINGS)
        operator = Operator(session, Display(console), program.app)
        try:
            status = recording.run(operator, given, getattr(given, "method", views.queues))
        finally:
            operator.close()
    except (OperatorError, SchemaError, CursorError, ValueError) as error:
        print(f"celery_postgres: {visible(str(error))}", file=sys.stderr)  # noqa: T201
        return 1
    except driver.Error as error:
        where = f"{describe(dsn)}: " if dsn else ""
        hint = "" if dsn or _chosen() else f": set {_VARIABLES[0]} to the broker's URL, unless this server is meant"
        print(f"celery_postgres: {where}{visible(primary(error))}{hint}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:  # writing to standard output: the disk is full, the terminal is gone
        with contextlib.suppress(OSError, ValueError):
            # At exit Python flushes what is left, and would fail again, with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"celery_postgres: the answer cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return status


def _console() -> Console:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise OperatorError("tables need the package rich: run `pip install rich`, or add --json") from None

    # Only a terminal has a width that a name must fit into.
    out = Console(markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out.width = sys.maxsize
    return out


def _chosen() -> bool:
    """Whether the environment names a database, by a variable of ours or of libpq's."""
    return any(os.environ.get(name) for name in _VARIABLES) or any(name.startswith("PG") for name in os.environ)


def _address() -> str:
    for name in _VARIABLES:
        url = os.environ.get(name)
        if url:
            return libpq_address(name, url)
    return ""


def libpq_address(name: str, url: str) -> str:
    """The libpq connection string of a broker's URL.

    Args:
        name: what the URL is called in an error. The URL is not quoted, except for its scheme.

    Raises:
        OperatorError, ValueError: it is not a PostgreSQL URL, or libpq cannot read it.
    """
    if not is_postgresql(url):
        scheme, separator, _ = url.partition("://")
        if scheme.lower() == "django":
            raise OperatorError(
                f"{name} names a database of Django's settings, which this command does not read: use "
                "`celery -A PROJECT queues` in its place, with the same words after it"
            )
        known = separator and re.fullmatch(r"[A-Za-z0-9+.-]{1,30}", scheme)
        found = f"begins with {scheme}://" if known else "does not"
        raise OperatorError(f"{name} is not a PostgreSQL URL: that begins with postgresql://, and this {found}")
    return parsed(url, "broker")
