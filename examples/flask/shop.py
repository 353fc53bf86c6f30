"""A shop: an order and the task that ships it are one transaction."""

import json
import os
import time

import celery.exceptions
import celery_postgres
from celery import Celery
from flask import Flask, Response, request
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
tasks = Celery("shop", broker=URL, backend=URL)
tasks.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
engine = create_engine(URL)
web = Flask("shop")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    parcel: Mapped[str | None]


@tasks.task
def ship(order_id):
    time.sleep(1)
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id)  # it is there: the task exists since the order was committed
        order.parcel = f"parcel-{order_id}"
        return order.parcel


@web.cli.command("create-tables")
def create_tables():
    """Create the shop's table; `python -m celery_postgres migrate` creates those of the broker."""
    Base.metadata.create_all(engine)


@web.post("/orders")
def order():
    with Session(engine, expire_on_commit=False) as session, session.begin():
        new = Order(item=request.json["item"])
        session.add(new)
        session.flush()
        with celery_postgres.publishing_on(session):
            task = ship.delay(new.id)
        if not new.item:
            raise ValueError("an order without an item")  # rolls back the order and its task
    return {"order": new.id, "task": task.id}, 202


@web.errorhandler(ValueError)
def refuse(error):
    return {"error": str(error)}, 400


@web.get("/tasks/<task_id>")
def result(task_id):
    """Wait up to ten seconds, on the connection that all waiting requests of this process share."""
    try:
        return {"parcel": tasks.AsyncResult(task_id).get(timeout=10)}
    except celery.exceptions.TimeoutError:
        return {"parcel": None}, 202


@web.get("/tasks/<task_id>/events")
def events(task_id):
    """Server-sent events: a comment every half second keeps proxies from closing the connection, then the result."""
    task = tasks.AsyncResult(task_id)

    def stream():
        while True:
            try:
                parcel = task.get(timeout=0.5)
            except celery.exceptions.TimeoutError:
                yield ": not shipped yet\n\n"
            else:
                yield f"data: {json.dumps({'parcel': parcel})}\n\n"
                return

    return Response(stream(), mimetype="text/event-stream")
