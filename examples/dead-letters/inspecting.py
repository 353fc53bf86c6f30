"""The same from a program: what is dead, and why; wait until there are three."""

import time
from collections import Counter

from celery_postgres import operations

from shop import app

with operations.of(app) as broker:
    deadline = time.monotonic() + 60
    while len(letters := broker.dead_letters()) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    for reason, count in sorted(Counter(letter.reason for letter in letters).items()):
        print(count, reason)
