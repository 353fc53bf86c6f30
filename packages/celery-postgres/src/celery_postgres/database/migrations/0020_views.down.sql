-- drop concurrently: ix_celery_taskmeta_tenant_failed
DROP INDEX CONCURRENTLY ix_celery_taskmeta_tenant_failed;

-- drop concurrently: ix_celery_taskmeta_failed
DROP INDEX CONCURRENTLY ix_celery_taskmeta_failed;

-- step: drop the sums of minutes
DROP TRIGGER IF EXISTS kombu_sum_new_minutes ON celery_minute;
DROP TRIGGER IF EXISTS kombu_sum_more_minutes ON celery_minute;
DROP FUNCTION IF EXISTS kombu_sum_minutes();
DROP TABLE IF EXISTS celery_minute_sum;
