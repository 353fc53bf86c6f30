"""The tests of this project, which `manage.py test` runs in its test database."""

from django.db import connection
from django.test import TransactionTestCase

from things.tasks import add


def messages():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_message")
        return cursor.fetchone()[0]


class TestDatabase(TransactionTestCase):
    def test_a_message_is_in_the_test_database(self):
        assert connection.settings_dict["NAME"].startswith("test_")
        before = messages()
        add.delay(1, 2)
        assert messages() == before + 1
