"""A shop with asynchronous handlers: an order and the task that ships it are one transaction."""

import os
import time
from typing import Annotated

import celery_postgres
from celery import Celery
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from awaiting import ended

URL = os.environ["DATABASE_URL"]
DRIVER = os.environ.get("DRIVER", "asyncpg")  # or psycopg
celery_postgres.install()
tasks = Celery("shop", broker=URL, backend=URL)
tasks.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
engine = create_engine(make_url(URL).set(drivername="postgresql+psycopg2"))  # for tasks, which are synchronous
make_session = async_sessionmaker(
    create_async_engine(make_url(URL).set(drivername=f"postgresql+{DRIVER}")), expire_on_commit=False
)
web = FastAPI()


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    parcel: Mapped[str | None]


class Wanted(BaseModel):
    item: str


@tasks.task
def ship(order_id):
    time.sleep(1)
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id)  # it is there: the task exists since the order was committed
        order.parcel = f"parcel-{order_id}"
        return order.parcel


async def transaction():
    async with make_session() as session, session.begin():
        yield session


@web.post("/orders", status_code=202)
async def order(wanted: Wanted, session: Annotated[AsyncSession, Depends(transaction, scope="function")]):
    new = Order(item=wanted.item)
    session.add(new)
    await session.flush()
    async with celery_postgres.publishing_on(session):
        task = ship.delay(new.id)
    if not new.item:
        raise HTTPException(400, "an order without an item")  # rolls back the order and its task
    return {"order": new.id, "task": task.id}


@web.get("/tasks/{task_id}")
async def result(task_id: str):
    """Wait up to ten seconds. Any number of requests may wait: they take no thread and no connection of their own."""
    try:
        return {"parcel": await ended(tasks.AsyncResult(task_id), timeout=10)}
    except TimeoutError:
        return {"parcel": None}


if __name__ == "__main__":
    Base.metadata.create_all(engine)
