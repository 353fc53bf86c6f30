"""The commands of ``./dev`` and of the installed program, listed once: for the help, the dispatch, and what must be
installed first.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One word after ``./dev``.

    Attributes:
        arguments: what may follow it.
        summary: one line for the help.
        lock: the lock in ``requirements/`` that must be installed, or None: it needs the standard library only.
        function: ``module:function`` of this package; takes the words after the command and returns the exit status.
        for_sources: whether it works on the sources of a checkout, so that the installed program does not have it.
    """

    arguments: str
    summary: str
    lock: str | None
    function: str
    for_sources: bool = False


COMMANDS = {
    "worker": Command("[celery worker options]", "set up, migrate, run the worker", "worker", "supervisor:worker"),
    "up": Command("", "the whole Procfile: worker and HTTP front", "worker", "up:up"),
    "ping": Command("[--wait SECONDS]", "send one task to the worker and show its result", "worker", "client:ping"),
    "status": Command("", "what runs, and where its state is", "worker", "inspection:status"),
    "down": Command("", "drain the worker, stop PostgreSQL; data stays", "worker", "inspection:down"),
    "migrate": Command("[revision]", "upgrade the database (to the newest migration)", "worker", "client:migrate"),
    "psql": Command("[psql options]", "a prompt in the database", "worker", "client:psql"),
    "queues": Command("[COMMAND ...]", "ready and dead messages; pause, cancel, requeue", "worker", "client:queues"),
    "flower": Command("[Flower options]", "workers and tasks in a browser, on loopback", "test", "client:flower"),
    "keys": Command("issue|list|revoke|console …", "API keys of the HTTP front, per tenant", "worker", "client:keys"),
    "validate": Command("", "start all, use it over HTTP, check who listens", "worker", "validation:validate"),
    "provision": Command("", "create DATABASE_URL's role and database", "worker", "client:provision_server"),
    "run": Command(
        "[--temporary] [--worker] -- COMMAND ...",
        "run a command on the database (and a worker)",
        "worker",
        "within:run",
    ),
    "test": Command(
        "[--postgres N] [--newest] [pytest options]",
        "the test suite; --faults: the fault suite",
        "test",
        "tools:test",
        for_sources=True,
    ),
    "conformance": Command(
        "[--quick] [celery|kombu]",
        "Celery's and Kombu's own tests, also on Redis",
        "test",
        "tools:conformance",
        for_sources=True,
    ),
    "matrix": Command(
        "[--list] [-- pytest options]",
        "the package's wheel on other versions, with nox",
        None,
        "tools:matrix",
        for_sources=True,
    ),
    "release": Command(
        "check TAG|build|sbom|publish",
        "make what a release of the package uploads",
        "lint",
        "releasing:release",
        for_sources=True,
    ),
    "bench": Command(
        "[scale] [--quick] [options]",
        "this project beside others; scale: one server",
        None,
        "tools:bench",
        for_sources=True,
    ),
    "fuzz": Command(
        "[TARGET ...] [--seconds N]", "hostile input, guided by coverage", None, "fuzzing:fuzz", for_sources=True
    ),
    "lint": Command("", "ruff, mypy and the layer check", "lint", "tools:lint", for_sources=True),
    "site": Command(
        "[Sphinx options]", "build the documentation into docs/_build/html", "lint", "tools:site", for_sources=True
    ),
    "format": Command("", "ruff's formatter and its safe fixes", "lint", "tools:format_code", for_sources=True),
    "lock": Command(
        "[uv options]", "generate requirements/*.txt from pyproject.toml", None, "tools:lock", for_sources=True
    ),
    "help": Command("", "this page", None, "cli:show_help"),
}

#: The locks; each contains the one before it.
LOCKS = ("worker", "test", "lint")
