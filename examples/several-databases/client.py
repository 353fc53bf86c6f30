"""A client: it names no database. Queues do, and results are found where they are."""

from celery import chord

from shop import app, bill, order, ship

print(order.delay(1).get(timeout=60))
print((order.s(2) | ship.s()).delay().get(timeout=60))
for tenant in ("acme", "umbrella"):
    print(tenant, order.apply_async((3,), headers={"tenant": tenant}).get(timeout=60))
print(chord([ship.s(number) for number in range(3)], bill.s()).delay().get(timeout=60))
try:
    chord([order.s(4), ship.s(4)], bill.s()).delay()
except Exception as error:
    print(error)
revoked = ship.apply_async((5,), countdown=600)
app.control.revoke(revoked.id)
