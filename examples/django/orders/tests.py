import json

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import TestCase

from orders.models import Order
from orders.tasks import ship


def published():
    """The messages that this test's transaction sees: nobody else does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_message")
        return cursor.fetchone()[0]


class OrderTest(TestCase):
    def order(self, item):
        return self.client.post("/orders", json.dumps({"item": item}), content_type="application/json")

    def test_an_order_publishes_its_task(self):
        assert self.order("lamp").status_code == 201
        assert Order.objects.count() == 1
        assert published() == 1

    def test_an_order_that_fails_publishes_nothing(self):
        assert self.order("unicorn").status_code == 409
        assert Order.objects.count() == 0
        assert published() == 0

    def test_the_task(self):
        order = Order.objects.create(item="lamp")
        assert ship(order.pk) == f"parcel-{order.pk}"


class AdminTest(TestCase):
    def test_schedules_and_results_are_in_the_admin(self):
        self.client.force_login(get_user_model().objects.create_superuser("admin"))
        for page in ("django_celery_beat/periodictask", "django_celery_results/taskresult", "orders/order"):
            assert self.client.get(f"/admin/{page}/").status_code == 200
