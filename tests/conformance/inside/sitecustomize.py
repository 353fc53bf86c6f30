"""In every process of a run on PostgreSQL, Celery's command line too: PostgreSQL's URLs mean ``celery_postgres``."""

import os

if os.environ.get("CONFORMANCE_INSTALL"):
    from celery.app.backends import BACKEND_ALIASES

    import celery_postgres

    celery_postgres.install()
    # A hundred of Celery's tests are skipped unless the result backend's URL begins with "redis", and need no Redis but
    # for notes of their tasks.
    BACKEND_ALIASES["redisless"] = "celery_postgres.installation:ResultChooser"
