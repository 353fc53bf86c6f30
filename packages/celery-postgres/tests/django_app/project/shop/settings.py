"""DATABASES and further settings come as JSON, from the test."""

import json
import os

from celery_postgres.django import database_url

DATABASES = json.loads(os.environ["PROJECT_DATABASES"])
INSTALLED_APPS = ["django.contrib.contenttypes", "things", "celery_postgres.django"]
SECRET_KEY = "of a test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CELERY_BROKER_URL = CELERY_RESULT_BACKEND = database_url()
CELERY_TASK_IGNORE_RESULT = False

globals().update(json.loads(os.environ.get("PROJECT_SETTINGS", "{}")))
