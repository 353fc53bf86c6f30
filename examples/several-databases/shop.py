"""One application, two databases: each queue, and each tenant, is in one of them."""

import os

import celery_postgres
from celery import Celery
from celery_postgres import Databases

celery_postgres.install()
DATABASES = Databases(
    {"eu": os.environ["EU_URL"], "us": os.environ["US_URL"]},
    queues={"eu.*": "eu", "us.*": "us"},
    keys={"acme": "us"},  # placed by hand; all other tenants by a stable hash
)
HERE = DATABASES.url(os.environ.get("SHOP_DATABASE", "eu"))  # a worker's own database
app = Celery("shop", broker=HERE, backend=HERE)
app.conf.broker_transport_options = {"databases": DATABASES}


def by_tenant(name, args, kwargs, options, task=None, **more):
    tenant = (options.get("headers") or {}).get("tenant")
    return {"queue": f"{DATABASES.of_key(tenant)}.orders"} if tenant else None


app.conf.task_routes = (by_tenant, {"shop.ship": {"queue": "us.shipping"}, "shop.*": {"queue": "eu.orders"}})


@app.task
def order(number):
    return f"{number} in {os.environ['SHOP_DATABASE']}"


@app.task
def ship(ordered):
    return f"{ordered}, shipped in {os.environ['SHOP_DATABASE']}"


@app.task
def bill(ordered):
    return f"{len(ordered)} orders billed in {os.environ['SHOP_DATABASE']}"
