"""Connection strings as this package reads them, for applications that read the same ones.

- `ASYNCPG_ONLY`: URL parameters of asyncpg that libpq does not know, and that say nothing about the connection.
- `sslmode_of(ssl)`: libpq's `sslmode` for the value of asyncpg's `ssl`.
- `is_unencoded(rest)`: whether what follows `://` holds a password that was not percent-encoded.
- `keepalive_parameters(dsn)`: libpq parameters with which a connection notices within 11 s that its network is gone,
  without those that the connection string sets itself.
"""

from celery_postgres.database.address import ASYNCPG_ONLY, is_unencoded, sslmode_of
from celery_postgres.database.keepalive import completed as keepalive_parameters

__all__ = ["ASYNCPG_ONLY", "is_unencoded", "keepalive_parameters", "sslmode_of"]
