"""A client: send a hundred tasks, and read their results."""

from mine import add

results = [add.delay(number, 1) for number in range(100)]
print(sum(result.get(timeout=60) for result in results))
