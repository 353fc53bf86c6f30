"""What this package needs of Kombu and Celery: one module for each patch, with the reason that would end it."""
