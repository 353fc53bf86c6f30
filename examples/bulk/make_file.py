"""A file with ten thousand products."""

print("id,name")
for number in range(10_000):
    print(f"{number},product {number}")
