"""Tests of this project that may not use the broker's database, and those that may. They are run by name."""

import asyncio
import threading

from django.db import connections
from django.test import SimpleTestCase, TestCase, TransactionTestCase

import celery_postgres
from things.tasks import add


def published():
    """How many messages the transaction sees that tasks are published in: that of the first alias in DATABASES which
    leads to the broker."""
    one_database = connections["default"].settings_dict["NAME"] == connections["queue"].settings_dict["NAME"]
    with connections["default" if one_database else "queue"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_message")
        return cursor.fetchone()[0]


class Refused:
    def refused(self):
        with self.assertRaisesRegex(celery_postgres.NotPublishedError, "add ('default' or )?'queue' to `databases`"):
            add.delay(1, 2)

    def test_here(self):
        self.refused()

    def test_in_a_thread(self):
        errors = []

        def work():
            try:
                self.refused()
            except BaseException as error:
                errors.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert errors == []

    def test_in_a_coroutine(self):
        async def work():
            self.refused()

        asyncio.run(work())


class Simple(Refused, SimpleTestCase):
    pass


class Default(Refused, TestCase):
    pass


class Named(TestCase):
    databases = {"default", "queue"}

    def test_it_is_part_of_the_transaction(self):
        add.delay(1, 2)
        assert published() == 1

    def test_it_is_gone_after_the_test(self):
        self.test_it_is_part_of_the_transaction()


class NamedWithoutTransaction(TransactionTestCase):
    databases = {"default", "queue"}

    def test_it_is_published(self):
        before = published()
        add.delay(1, 2)
        assert published() == before + 1

    def test_it_is_published_in_a_coroutine(self):
        before = published()

        async def work():
            add.delay(1, 2)

        asyncio.run(work())
        assert published() == before + 1


class RealAddress(TestCase):
    """The broker's URL is not `django://`, but the same words as DATABASES."""

    def test_it_is_refused(self):
        with self.assertRaisesRegex(celery_postgres.NotPublishedError, r"set broker_url to database_url\('default'\)"):
            add.delay(1, 2)
