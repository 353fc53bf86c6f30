"""The HTTP front: `uvicorn app.main:app`."""

from __future__ import annotations

import os
import sys

from app.core.settings import ConfigurationError, get_settings

try:
    get_settings()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(os.EX_CONFIG) from None

from app.http.application import create_app

app = create_app()
