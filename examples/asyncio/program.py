"""An asyncio program that sends tasks and awaits their results."""

import asyncio

import celery_postgres

from awaiting import ended
from mine import app, fail, sleep, square


def send_many(numbers):
    """Publishing is synchronous; in bulk it takes a round trip for 500 tasks."""
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        return [square.apply_async((number,), producer=producer) for number in numbers]


async def main():
    result = await asyncio.to_thread(square.delay, 7)
    print(await ended(result, timeout=60))

    results = await asyncio.to_thread(send_many, range(200))
    print(sum(await asyncio.gather(*(ended(one, timeout=60) for one in results))))

    for coroutine in asyncio.as_completed([ended(sleep.delay(1)), ended(sleep.delay(0))]):
        await coroutine  # the one that ends first comes first

    try:
        await ended(fail.delay(), timeout=60)
    except ValueError as error:
        print(error)

    try:
        await ended(sleep.apply_async((0,), countdown=3600), timeout=1)
    except TimeoutError:
        print("not ended after a second")


asyncio.run(main())
