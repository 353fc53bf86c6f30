"""The caller's table."""

import os

import psycopg2

with psycopg2.connect(os.environ["DATABASE_URL"]) as connection:
    connection.cursor().execute("CREATE TABLE orders (number integer)")
