import json

from celery.exceptions import TimeoutError as NotYetError
from celery.result import AsyncResult
from django.db import transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

from orders.models import Order
from orders.tasks import ship


class SoldOutError(Exception):
    pass


@csrf_exempt  # there is no browser in this example
def orders(request):
    """GET: all orders. POST: store an order and publish its task, both or neither."""
    if request.method != "POST":
        return JsonResponse({"orders": [str(order) for order in Order.objects.order_by("pk")]})
    try:
        with transaction.atomic():
            order = Order.objects.create(item=json.loads(request.body)["item"])
            shipping = ship.delay(order.pk)
            reserve(order)
    except SoldOutError:
        return JsonResponse({"error": "sold out"}, status=409)
    return JsonResponse({"order": order.pk, "task": shipping.id}, status=201)


def reserve(order):
    if order.item == "unicorn":
        raise SoldOutError


def task(request, task_id):
    """Wait for a task, at most ten seconds."""
    result = AsyncResult(str(task_id))
    try:
        return JsonResponse({"result": result.get(timeout=10)})
    except NotYetError:
        return JsonResponse({"state": result.state}, status=202)
