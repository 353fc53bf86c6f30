"""The Django app: `INSTALLED_APPS += ["celery_postgres.django"]`."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import pre_migrate

from celery_postgres.django import addresses, atomic, isolation, test_databases, way_down


class CeleryPostgresConfig(AppConfig):
    """Has no models: the tables are those of the package, and their migrations call the package's own."""

    name = "celery_postgres.django"
    label = "celery_postgres"
    verbose_name = "Celery on PostgreSQL"

    def ready(self) -> None:
        from celery_postgres.django import checks  # noqa: F401  # registers them

        isolation.remember()
        addresses.register()
        atomic.install()
        test_databases.install()
        pre_migrate.connect(way_down.note, sender=self)
