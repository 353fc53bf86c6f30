"""Await a task: the coroutine sleeps until the database reports the task's end. No thread waits for it."""

import asyncio

from celery_postgres import operations


async def ended(result, timeout=None):
    """Return the value of an `AsyncResult`, or raise its task's error; `TimeoutError` after so many seconds."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def wake():  # called by the thread that listens for all results of this process
        loop.call_soon_threadsafe(done.set)

    with operations.watching(result.app, result.id, wake):
        async with asyncio.timeout(timeout):
            await done.wait()
    return await asyncio.to_thread(result.get)
