from django.db import migrations

from celery_postgres.django.operations import Number


class Migration(migrations.Migration):
    atomic = False  # each step of the package's migration is a transaction of its own
    dependencies = [("celery_postgres", "0022_ended_sessions")]
    operations = [Number(23)]
