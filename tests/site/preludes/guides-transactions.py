"""The caller's table, and Django's settings."""

import os
from urllib.parse import parse_qsl, urlsplit

import django
import psycopg2
from django.conf import settings

with psycopg2.connect(os.environ["DATABASE_URL"]) as connection:
    connection.cursor().execute("CREATE TABLE orders (number integer)")

parts = urlsplit(os.environ["DATABASE_URL"])
query = dict(parse_qsl(parts.query))
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": parts.path.lstrip("/"),
    "USER": parts.username,
    "HOST": query.get("host", parts.hostname),
    "PORT": query.get("port", parts.port),
}
settings.configure(DATABASES={"default": database})
django.setup()
