"""Tasks that append a line to a file as they start: in which order tenants had their turns. Loaded with `-I`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject

from app.tasks.context import tenant_task

#: What a task takes. So the order of what starts does not depend on how fast a machine is.
TASK_S = 0.002


def begun(path: str, line: str) -> None:
    """O_APPEND keeps the lines of several processes apart."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


@shared_task(bind=True, name="turns.note", ignore_result=True)
@tenant_task
def note(self: Any, tenant_id: str, path: str, name: str) -> None:
    begun(path, name)
    time.sleep(TASK_S)


@shared_task(bind=True, name="turns.again", ignore_result=True)
@tenant_task
def again(self: Any, tenant_id: str, path: str, name: str) -> None:
    begun(path, f"{name}-{self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=0.05)


@shared_task(bind=True, name="turns.dies", ignore_result=True)
@tenant_task
def dies(self: Any, tenant_id: str, path: str, name: str) -> None:
    begun(path, name)
    if os.path.exists(f"{path}-mended"):
        return
    raise Reject("as told", requeue=False)
