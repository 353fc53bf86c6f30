"""What one consuming process does: its lease, its claims, its prefetch buffer, and maintenance."""
