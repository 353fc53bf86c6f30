"""The same with the fixtures of `celery.contrib.pytest`."""

import celery_postgres
import pytest

pytest_plugins = ["celery.contrib.pytest"]
celery_postgres.install()


@pytest.fixture(scope="session")
def celery_config(database_url):
    return {"broker_url": database_url, "result_backend": database_url}


@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"queues": ["plugin"], "perform_ping_check": False}


def test_a_task(celery_session_app, celery_session_worker):
    @celery_session_app.task
    def double(number):
        return 2 * number

    celery_session_worker.reload()
    assert double.apply_async((21,), queue="plugin").get(timeout=60) == 42
