"""The queues of the application: in each, tenants take turns."""

from __future__ import annotations

from typing import Any

from celery.app import amqp
from kombu import Queue


class FairQueues(amqp.Queues):
    """Each queue of tasks is fair, whether a setting, a route, a worker's `-Q` or remote control names it.

    A queue that says otherwise (`Queue("q", queue_arguments={"x-fair": False})`) keeps that. Queues that end with their
    process have one consumer and no tenants: fairness would cost them something and bring nothing.
    """

    def __setitem__(self, name: str, queue: Queue) -> None:
        if not (queue.auto_delete or queue.exclusive):
            queue.queue_arguments = {"x-fair": True, **(queue.queue_arguments or {})}
        super().__setitem__(name, queue)


class AMQP(amqp.AMQP):
    """What Celery asks for the queues of an application. Those of remote control, events and replies are not among
    them: Celery declares those by itself.
    """

    queues_cls: Any = FairQueues
