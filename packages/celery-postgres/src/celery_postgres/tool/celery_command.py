"""`celery -A app queues …`: the queue tool on the database of the app's broker."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    "queues",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Inspect and repair the queues of a PostgreSQL broker.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def queues(context: click.Context, /, words: tuple[str, ...], **_: Any) -> None:
    """Run the queue tool on the database of the app's broker.

    Every `celery` command imports this module, so it imports the tool only when it runs.
    """
    from dataclasses import replace

    from celery_postgres.tool import cli
    from celery_postgres.tool.operator import OperatorError

    program = cli.Program("celery -A APP queues", "The database is that of the app's broker.")
    if {"-h", "--help"} & set(words):
        context.exit(cli.main(words, "", program))  # the help needs no database
    try:
        dsn = cli.libpq_address("the broker's URL", _broker_url(context.obj.app))
    except (OperatorError, ValueError) as error:
        click.echo(f"celery_postgres: {error}", err=True)
        context.exit(1)
    context.exit(cli.main(words, dsn, replace(program, app=context.obj.app)))


def _broker_url(app: Any) -> str:
    """The URL of the broker; the first, if the app has several to fail over to.

    Raises:
        OperatorError: the app names no broker.
    """
    from celery_postgres.tool.operator import OperatorError

    url = app.conf.broker_read_url or app.conf.broker_url
    if url and not isinstance(url, str):
        url = next(iter(url), None)
    if not url:
        raise OperatorError("this app names no broker: give an app with -A, or its URL in CELERY_BROKER_URL")
    return str(url).split(";")[0]
