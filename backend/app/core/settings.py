"""Every setting of the application, typed, read from the environment (then from `.env` in the checkout).

`.env.example` lists each variable with its default. `python -m app.core.settings > .env.example` generates it, and a
test compares it with this module.
"""

from __future__ import annotations

import sys
import textwrap
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.dsn import PostgresDSN
from app.core.errors import LoggableError

CHECKOUT = Path(__file__).resolve().parents[3]


class ConfigurationError(LoggableError, ValueError):
    """The environment cannot be used. The message has one line per problem, names each variable, and contains no
    values.
    """


class Settings(BaseSettings):
    """The environment of one process. Field names are the environment variables in lower case."""

    model_config = SettingsConfigDict(
        env_file=CHECKOUT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = Field(
        description="The one PostgreSQL that is broker, result store and application database. Any of "
        "postgres://, postgresql://, postgresql+asyncpg://; `./dev` starts a private one when it is empty."
    )
    environment: Literal["development", "production"] = Field(
        "development",
        description="In production a worker refuses a role that is superuser or may bypass row-level security.",
    )
    service_name: str = Field(
        "skeldir-worker",
        min_length=1,
        max_length=100,
        description="The field `service` of every log line; when it is not set, a web process says skeldir-web.",
    )
    database_pool_size: int = Field(
        5,
        ge=1,
        le=100,
        description="Connections that the application (not the broker) keeps open per process.",
    )
    tenant_concurrency: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Tasks of one tenant that run at once, in all workers together. A worker writes it as the limit of "
        "each key (`*`) of its queues that have none; then the row counts, which `limits set` changes. 0: no limit.",
    )
    database_connect_timeout: int = Field(
        5, ge=2, le=60, description="Seconds until an attempt to connect to one host is given up."
    )
    celery_metrics_addr: str = Field(
        "127.0.0.1", description="Address of the worker's HTTP server (/metrics, /health, /livez, /readyz)."
    )
    celery_metrics_port: int = Field(9540, ge=0, le=65535, description="Its port; 0 asks the system for a free one.")
    celery_metrics_max_connections: int = Field(
        32,
        ge=1,
        le=1_000,
        description="Connections, and so threads, of the worker's HTTP server. Above it, one that has not sent its "
        "request gives way to the new one.",
    )
    celery_metrics_timeout: float = Field(
        5.0, gt=0, le=60, description="Seconds that a client of it may take to send its request or to read the answer."
    )
    celery_worker_file: Path | None = Field(
        None, description="A ready worker writes its pid and metrics port here as JSON; empty: nowhere."
    )
    prometheus_multiproc_dir: Path | None = Field(
        None, description="Where prefork processes share their metrics; empty: a temporary folder per worker."
    )
    celery_result_expires: int = Field(
        86_400, ge=0, description="Seconds for which results are kept; 0 keeps them forever."
    )
    celery_result_pickle: Literal["write", "read", "refuse"] = Field(
        "read",
        description="What becomes of pickled results: `read` writes JSON where that keeps a value as it is, `refuse` "
        "reads and writes none (for once no worker that is older is left), `write` is for stock Celery up to 5.6.",
    )
    health_interval: float = Field(
        5.0, gt=0, le=60, description="Seconds between two health checks; probes answer with the latest."
    )
    tracing_exporter: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:class of an OpenTelemetry span exporter, such as "
        "opentelemetry.exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter (needs the extra `otel`); empty: no "
        "traces.",
    )
    llm_provider: str = Field(
        "app.tasks.llm_provider:OfflineProvider",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:class of the LLM provider; the default is offline and deterministic.",
    )
    maintenance_views: Annotated[frozenset[str], NoDecode] = Field(
        frozenset({"mv_maintenance_activity"}),
        description="Materialized views that may be refreshed, separated by commas.",
    )
    maintenance_batch_size: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Rows that one transaction of a maintenance task changes at most.",
    )
    maintenance_hash_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret of the PII action `hash` (16 characters or more); keep it apart from the database and "
        "its backups. Not needed while no policy hashes.",
    )

    web_allowed_hosts: Annotated[frozenset[str], NoDecode] = Field(
        frozenset({"localhost"}),
        description="Host names that the front answers to, separated by commas; requests for another Host are "
        "refused (421). *.example.com also means each name below it, * any name. Addresses and the name of the machine "
        "are always allowed.",
    )
    web_max_connections: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Connections that one web process serves at the same time; fewer where the limit of open files "
        "(ulimit -n) is lower. Above it, one that has not sent its request is closed to make room.",
    )
    web_max_connections_per_address: int = Field(
        0,
        ge=0,
        le=100_000,
        description="The same for one address; 0: no limit, as behind a proxy, where all clients have its address.",
    )
    web_header_timeout: float = Field(
        10.0, gt=0, le=300, description="Seconds that a client may take to send the headers of a request."
    )
    web_body_timeout: float = Field(
        20.0, gt=0, le=300, description="Seconds that a client may take to send the body of a request."
    )
    web_write_timeout: float = Field(
        30.0, gt=0, le=300, description="Seconds in which a client has to read 16 kB of an answer that is longer."
    )
    web_max_body_bytes: int = Field(
        1_048_576, ge=1_024, le=104_857_600, description="Bytes that the body of an HTTP request may have."
    )
    web_max_body_bytes_in_flight: int = Field(
        67_108_864,
        ge=1_048_576,
        le=10_737_418_240,
        description="Bytes of all bodies that one web process has received and not yet answered; each body counts as "
        "64 kB more than it has. Further ones are refused (503).",
    )
    web_max_body_bytes_in_flight_per_tenant: int = Field(
        16_777_216, ge=1_048_576, le=10_737_418_240, description="The same for one tenant (429)."
    )
    web_max_json_depth: int = Field(
        20, ge=4, le=200, description="Levels of objects and arrays that the JSON of a request may have."
    )
    web_max_json_members: int = Field(
        2_000,
        ge=100,
        le=1_000_000,
        description="Members that all objects and arrays in the JSON of a request may have together.",
    )
    web_max_queue_length: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="The number of waiting tasks above which further ones are refused (503), where no tenant counts "
        "for more than its share; one with less than a tenth of its share goes on.",
    )
    web_max_queue_length_per_tenant: int = Field(
        2_500,
        ge=1,
        le=1_000_000,
        description="A tenant's share of them, above which its further ones are refused (429).",
    )
    web_max_streams: int = Field(
        500, ge=0, le=10_000, description="Event streams that one web process serves at the same time (else 503)."
    )
    web_max_streams_per_tenant: int = Field(
        100, ge=0, le=10_000, description="The same for the streams of one tenant (else 429)."
    )
    web_heartbeat: float = Field(
        15.0,
        gt=0,
        le=60,
        description="Seconds without an event after which an event stream sends a keep-alive.",
    )
    web_require_idempotency_key: bool = Field(
        False, description="Whether a submission without Idempotency-Key is refused (400)."
    )

    web_console_keys: str = Field(
        "",
        max_length=100_000,
        description="The keys with which readers and operators open the console, separated by semicolons: the lines "
        "that `./dev keys console` prints. They hold no secret. Tenants open it with their API keys.",
    )
    web_console_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs the sessions of the console (32 characters or more). Give all web processes the same; by "
        "default sessions end with their process.",
    )
    web_console_title: str = Field(
        "", max_length=40, description="The name at the top of the console's pages; by default that of ENVIRONMENT."
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        PostgresDSN.parse(value.get_secret_value())
        return value

    @field_validator("maintenance_views", "web_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def dsn(self) -> PostgresDSN:
        """The database address in parts."""
        return PostgresDSN.parse(self.database_url.get_secret_value())


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: a variable is missing or wrong; the message names the variable, not its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError("\n".join(_problem(e["loc"], e["type"], e["msg"]) for e in error.errors())) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(part) for part in location).upper()
    if kind == "missing" and name == "DATABASE_URL":
        return (
            "DATABASE_URL is not set: give a PostgreSQL URL such as postgresql://user:password@host:5432/database, "
            "or start with `./dev worker`, which brings a private PostgreSQL"
        )
    text = message.removeprefix("Value error, ")
    return text if text.startswith(name) else f"{name}: {text}"


def env_example() -> str:
    """The text of `.env.example`: each variable with its meaning, commented out where it has a default."""
    lines = [
        "# Copy to .env, or set in the environment, which wins. Generated by `python -m app.core.settings`.",
        "",
    ]
    for name, field in Settings.model_fields.items():
        lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 110)]
        if field.is_required():
            lines.append(f"{name.upper()}=")
        else:
            default = field.default
            shown = ",".join(sorted(default)) if isinstance(default, frozenset) else "" if default is None else default
            lines.append(f"# {name.upper()}={shown}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(env_example())
