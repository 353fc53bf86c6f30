"""The tests of this project, which `manage.py test` runs in its test database."""

import asyncio
import threading
from contextlib import closing, suppress

import psycopg2
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection, connections, transaction
from django.http import HttpResponse
from django.test import TestCase, TransactionTestCase, override_settings
from django.urls import path
from shop import celery_app

import celery_postgres
from celery_postgres.django import at_once
from celery_postgres.django.addresses import dsn_of
from things.models import Thing
from things.tasks import add

IDS = "SELECT coalesce(array_agg(task_id ORDER BY id), '{}') FROM kombu_message"


def inside(alias="default"):
    """The task ids of the messages that Django's own connection sees."""
    with connections[alias].cursor() as cursor:
        cursor.execute(IDS)
        return cursor.fetchone()[0]


def outside():
    """The task ids of the messages that everybody sees."""
    with closing(psycopg2.connect(dsn_of("default"))) as other, other.cursor() as cursor:
        cursor.execute(IDS)
        return cursor.fetchone()[0]


def send(task_id):
    add.apply_async((1, 2), task_id=task_id)


class BrokenError(Exception):
    pass


class Empty(TransactionTestCase):
    """Begins without a message. Django empties the tables of models, and these have none."""

    def setUp(self):
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE kombu_message")


class TestDatabase(Empty):
    def test_a_message_is_in_the_test_database(self):
        assert connection.settings_dict["NAME"].startswith("test_")
        send("a")
        assert inside() == ["a"]


class TestAtomic(Empty):
    databases = {"default", "again"}

    def test_a_commit_publishes(self):
        with transaction.atomic():
            send("a")
            assert inside() == ["a"]
            assert outside() == []
        assert outside() == ["a"]

    def test_a_rollback_publishes_nothing(self):
        with suppress(BrokenError), transaction.atomic():
            Thing.objects.create(name="gone")
            send("a")
            raise BrokenError
        assert outside() == []
        assert not Thing.objects.exists()
        send("b")
        assert outside() == ["b"]

    def test_set_rollback_publishes_nothing(self):
        with transaction.atomic():
            send("a")
            transaction.set_rollback(True)
        assert outside() == []

    def test_a_savepoint_removes_its_own_messages_alone(self):
        with transaction.atomic():
            send("a")
            with suppress(BrokenError), transaction.atomic():
                send("b")
                raise BrokenError
            with transaction.atomic():
                send("c")
            with suppress(BrokenError), transaction.atomic(savepoint=True):
                with transaction.atomic(savepoint=False):
                    send("d")
                raise BrokenError
            send("e")
        assert outside() == ["a", "c", "e"]

    def test_a_savepoint_by_hand(self):
        with transaction.atomic():
            savepoint = transaction.savepoint()
            send("a")
            transaction.savepoint_rollback(savepoint)
            send("b")
        assert outside() == ["b"]

    def test_durable(self):
        with transaction.atomic(durable=True):
            send("a")
            assert outside() == []
        assert outside() == ["a"]

    def test_a_decorator(self):
        @transaction.atomic
        def work():
            send("a")
            raise BrokenError

        with suppress(BrokenError):
            work()
        assert outside() == []

    def test_without_autocommit(self):
        transaction.set_autocommit(False)
        try:
            send("a")
            transaction.rollback()
            send("b")
            assert outside() == []
            transaction.commit()
            assert outside() == ["b"]
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)

    def test_outside_of_a_transaction_a_message_is_published_at_once(self):
        Thing.objects.create(name="first")
        send("a")
        assert outside() == ["a"]

    def test_on_commit_publishes_after_the_commit(self):
        with transaction.atomic():
            transaction.on_commit(lambda: send("a"))
            add.apply_async_on_commit((1, 2), task_id="b")
            add.delay_on_commit(1, 2)
            assert inside() == []
        assert outside()[:2] == ["a", "b"]
        assert len(outside()) == 3
        with suppress(BrokenError), transaction.atomic():
            add.delay_on_commit(1, 2)
            raise BrokenError
        assert len(outside()) == 3

    def test_a_new_queue(self):
        with suppress(BrokenError), transaction.atomic():
            add.apply_async((1, 2), queue="seldom")
            raise BrokenError
        assert outside() == []
        with transaction.atomic():
            add.apply_async((1, 2), queue="rare", task_id="a")
        assert outside() == ["a"]

    def test_a_bulk_is_part_of_it(self):
        def send_many():
            with celery_app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
                for number in range(3):
                    add.apply_async((1, 2), task_id=f"{number}", producer=producer)

        with suppress(BrokenError), transaction.atomic():
            send_many()
            raise BrokenError
        assert outside() == []
        with transaction.atomic():
            send_many()
            assert outside() == []
        assert outside() == ["0", "1", "2"]

    def test_a_canvas(self):
        with suppress(BrokenError), transaction.atomic():
            (add.s(1, 2) | add.s(3)).delay()
            raise BrokenError
        assert outside() == []

    def test_after_an_error_of_the_database_nothing_is_published(self):
        with suppress(celery_postgres.NotPublishedError), transaction.atomic():
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
            send("a")
        assert outside() == []
        with transaction.atomic():
            with suppress(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
            send("b")
        assert outside() == ["b"]

    def test_a_closed_connection_publishes_nothing(self):
        with suppress(celery_postgres.NotPublishedError, DatabaseError), transaction.atomic():
            connection.close()
            send("a")
        assert outside() == []

    def test_another_alias_of_the_same_database(self):
        with transaction.atomic(using="again"):
            send("a")
            assert inside("again") == ["a"]
            assert outside() == []
            transaction.set_rollback(True, using="again")
        assert outside() == []

    def test_a_transaction_in_another_thread(self):
        with transaction.atomic():
            thread = threading.Thread(target=lambda: (send("a"), connections.close_all()))
            thread.start()
            thread.join()
            assert outside() == ["a"]


class TestOptOut(Empty):
    def test_of_a_call(self):
        with suppress(BrokenError), transaction.atomic():
            with at_once():
                send("a")
            send("b")
            raise BrokenError
        assert outside() == ["a"]

    def test_of_a_project(self):
        with override_settings(CELERY_POSTGRES_ATOMIC=False), suppress(BrokenError), transaction.atomic():
            send("a")
            raise BrokenError
        assert outside() == ["a"]

    def test_of_a_connection(self):
        """What the program says explicitly counts."""
        with closing(psycopg2.connect(dsn_of("default"))) as other, transaction.atomic():
            with celery_postgres.publishing_on(other):
                send("a")
            transaction.set_rollback(True)
            other.commit()
        assert outside() == ["a"]


class TestAsync(Empty):
    def test_a_function_with_both(self):
        """`atomic` and the publish in one function, which a thread runs."""

        def work(task_id, fail):
            with transaction.atomic():
                send(task_id)
                assert outside() == []
                transaction.set_rollback(fail)
            connections.close_all()

        asyncio.run(sync_to_async(work)("a", True))
        assert outside() == []
        asyncio.run(sync_to_async(work)("b", False))
        assert outside() == ["b"]

    def test_a_lost_connection_is_replaced(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
        with closing(psycopg2.connect(dsn_of("default"))) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        with celery_postgres.publishing_on(connection):
            with self.assertRaises(celery_postgres.NotPublishedError):
                send("a")
            connection.close_if_unusable_or_obsolete()  # Django calls it between two requests
            send("b")
        assert outside() == ["b"]

    def test_a_coroutine_publishes_at_once(self):
        async def work():
            await Thing.objects.acreate(name="of a coroutine")
            await sync_to_async(send)("a")
            send("b")
            await sync_to_async(connections.close_all)()

        asyncio.run(work())
        assert outside() == ["a", "b"]


def view(request):
    Thing.objects.create(name="of a request")
    send("a")
    if "fail" in request.GET:
        raise BrokenError
    return HttpResponse()


urlpatterns = [path("", view)]


@override_settings(ROOT_URLCONF="things.tests", ALLOWED_HOSTS=["testserver"])
class TestRequests(Empty):
    def setUp(self):
        super().setUp()
        connection.settings_dict["ATOMIC_REQUESTS"] = True

    def tearDown(self):
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    def test_atomic_requests(self):
        with suppress(BrokenError):
            self.client.get("/?fail")
        assert outside() == []
        self.client.get("/")
        assert outside() == ["a"]


class TestTestCase(TestCase):
    """Each test is one transaction that Django rolls back."""

    def test_a_message_is_visible_inside_alone(self):
        send("of a test case")
        assert "of a test case" in inside()
        assert "of a test case" not in outside()

    def test_the_other_test_left_nothing(self):
        self.test_a_message_is_visible_inside_alone()
        assert inside().count("of a test case") == 1

    def test_hooks_of_the_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            add.apply_async_on_commit((1, 2), task_id="of a hook")
        assert "of a hook" in inside()
        assert "of a hook" not in outside()
