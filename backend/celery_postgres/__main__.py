"""``python -m celery_postgres``."""

import sys

from celery_postgres.console import main

sys.exit(main())
