"""One interpreter for the Python blocks of a page.

It reads a line of JSON for each block, `{"code", "name"}`, and answers with one, `{"failed", "printed"}`.

What the blocks write to file descriptor 1 by other ways than `print` goes to standard error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, "")
#: Blocks may define tasks, which Celery names after their module.
names: dict[str, object] = {"__name__": "page"}
for line in sys.stdin:
    given = json.loads(line)
    printed, failed = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(given["code"], given["name"], "exec"), names)  # noqa: S102  our own pages
        except BaseException:
            failed = traceback.format_exc()
    print(json.dumps({"failed": failed, "printed": printed.getvalue()}), file=answers, flush=True)
