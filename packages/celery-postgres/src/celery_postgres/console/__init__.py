"""The console: queues, tasks, dead letters and workers in a browser, as an ASGI application.

Mount it in a project's own application, or start it with `celery -A app console`::

    from celery_postgres import console

    application = console.create(console.source_of(app), console.ConfiguredKeys(os.environ["KEYS"].splitlines()))
"""

try:
    from celery_postgres.console.access import (
        ConfiguredKeys,
        FirstOf,
        Keys,
        Role,
        ThisMachine,
        Viewer,
        lines_of,
        new_key,
    )
    from celery_postgres.console.application import create
    from celery_postgres.console.errors import ConsoleError
    from celery_postgres.console.source import Source, source_of
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "starlette"):
        raise
    raise ImportError(
        f"celery_postgres.console needs {error.name}: pip install 'celery-postgres[console]'", name=error.name
    ) from None

__all__ = [
    "ConfiguredKeys",
    "ConsoleError",
    "FirstOf",
    "Keys",
    "Role",
    "Source",
    "ThisMachine",
    "Viewer",
    "create",
    "lines_of",
    "new_key",
    "source_of",
]
