"""`celery -A app console`: the console of the app's broker, served by uvicorn."""

from __future__ import annotations

from typing import Any

import click


@click.command("console", short_help="Serve a web page of queues, tasks, dead letters and workers.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8787, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on.")
@click.option("--title", default="Celery", show_default=True, help="The environment's name, at the top of each page.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A host name by which browsers reach it, besides localhost and addresses; with keys, '*' is every name. "
    "Repeat it for several.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy, or a network of proxies, whose X-Forwarded-For counts: wrong keys are limited for each address. "
    "Repeat it for several.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="The path below which a proxy shows it, such as /celery, where the proxy takes that path away.",
)
@click.option(
    "--new-key",
    nargs=2,
    metavar="ROLE NAME",
    help="Make a key for a `reader`, an `operator` or an `operator+payloads` (who sees values), and exit.",
)
@click.pass_context
def console(context: click.Context, /, new_key: tuple[str, str] | None, **options: Any) -> None:
    """Serve the console of this app's broker.

    On a loopback address it asks for no key, unless CELERY_CONSOLE_KEYS names some: then only they open it. On another
    address it needs them. CELERY_CONSOLE_KEYS has one line for each key, as --new-key prints it. CELERY_CONSOLE_SECRET
    signs sessions: with it they outlive the process.
    """
    try:
        # Every `celery` command imports this module, so it imports the console only when it runs.
        from celery_postgres.console import new_key as make_key
        from celery_postgres.console import serving
        from celery_postgres.console.errors import ConsoleError
    except ModuleNotFoundError as error:
        click.echo(f"console: {error.name} is missing: pip install 'celery-postgres[console]'", err=True)
        context.exit(1)
    try:
        if new_key is not None:
            key, line = make_key(*new_key)
            click.echo("The key, which is shown only once:", err=True)
            click.echo(key)
            click.echo("Its line in CELERY_CONSOLE_KEYS:", err=True)
            click.echo(line)
            return
        serving.serve(context.obj.app, **options)
    except ConsoleError as error:
        click.echo(f"console: {error}", err=True)
        context.exit(1)
