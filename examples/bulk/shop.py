"""A shop that imports products from a file: a row and a task for each, all or nothing."""

import csv
import os
import sys

import celery_postgres
import psycopg2
from celery import Celery
from psycopg2.extras import execute_values

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
app = Celery("shop", broker=URL, backend=URL)


@app.task(ignore_result=True)
def fetch_picture(product):
    """What is slow is done later, by workers."""


def import_products(connection, lines):
    """Insert the products, and publish a task for each, in the transaction of `connection`. Return how many."""
    products = [(int(line["id"]), line["name"]) for line in csv.DictReader(lines)]
    with connection.cursor() as cursor:
        execute_values(cursor, "INSERT INTO product (id, name) VALUES %s", products, page_size=1000)
    with (
        celery_postgres.publishing_on(connection),
        app.producer_or_acquire() as producer,
        celery_postgres.bulk(producer),
    ):
        for number, _ in products:
            fetch_picture.apply_async((number,), producer=producer)
    return len(products)


def main(path):
    connection = psycopg2.connect(URL)
    try:
        with connection, open(path, newline="") as lines:  # commits at its end, rolls back after an error
            print(f"imported {import_products(connection, lines)} products")
    except psycopg2.errors.UniqueViolation:
        sys.exit("nothing is imported: a product is there already")
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
