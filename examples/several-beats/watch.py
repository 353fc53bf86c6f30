"""Print the next ticks as they come, and whether each was sent once: `python watch.py 4`."""

import os
import sys
import time

import psycopg2

DEADLINE_S = 60
wanted, deadline = int(sys.argv[1]), time.monotonic() + DEADLINE_S
connection = psycopg2.connect(os.environ["DATABASE_URL"])
connection.autocommit = True
cursor = connection.cursor()


def read(statement, *parameters):
    cursor.execute(statement, parameters)
    return cursor.fetchall()


((last,),) = read("SELECT coalesce(max(id), 0) FROM tick")
while wanted:
    for number, at in read("SELECT id, at FROM tick WHERE id > %s ORDER BY id LIMIT %s", last, wanted):
        print(f"{at:%H:%M:%S}", flush=True)
        last, wanted = number, wanted - 1
    if time.monotonic() > deadline:
        sys.exit(f"{wanted} ticks are missing after {DEADLINE_S} s")
    time.sleep(0.1)

# What the beats have sent, and what has run: equal, except while a message is on its way.
while True:
    ((sent, run),) = read("SELECT runs, (SELECT count(*) FROM tick) FROM celery_beat_entry WHERE name = 'every second'")
    if sent == run:
        break
    if run > sent or time.monotonic() > deadline:
        sys.exit(f"{sent} sent and {run} run")
    time.sleep(0.02)
print(f"{sent} sent and {run} run: none twice, none missing")
