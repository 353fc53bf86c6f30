-- step: drop what consumers have counted
DROP TABLE IF EXISTS celery_minute, celery_hour, celery_depth;
