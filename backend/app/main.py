"""The HTTP front: `uvicorn app.main:app`."""

from __future__ import annotations

import os
import sys

from app.core.settings import ConfigurationError

try:
    # This import also creates the Celery application, from the same settings.
    from app.http.application import create_app

    app = create_app()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(os.EX_CONFIG) from None
