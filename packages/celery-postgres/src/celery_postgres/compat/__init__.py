"""What Kombu and Celery need so that they work with this transport."""
