"""A client: `python client.py send`, and later `python client.py read`."""

import sys

from shop import app, invoice, remind

if sys.argv[1] == "send":
    tasks = [invoice.delay(1), remind.delay(1), remind.delay(2)]
    invoice.delay(-1)
    with open("tasks", "w") as file:
        file.writelines(f"{task.id}\n" for task in tasks)
else:
    with open("tasks") as file:
        for line in file:
            print(app.AsyncResult(line.strip()).get(timeout=60))
