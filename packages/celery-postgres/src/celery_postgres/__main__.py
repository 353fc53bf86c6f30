"""``python -m celery_postgres``."""

import sys

from celery_postgres.tool.cli import main

sys.exit(main())
