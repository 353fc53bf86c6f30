"""The HTTP front: `uvicorn app.main:app`."""

from __future__ import annotations

import os
import sys

from app.core.settings import ConfigurationError

try:
    # With it comes the Celery application, made of the same settings when it is imported.
    from app.http.application import create_app

    app = create_app()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(os.EX_CONFIG) from None
