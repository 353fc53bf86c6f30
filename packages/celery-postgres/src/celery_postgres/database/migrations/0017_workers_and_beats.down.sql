-- Workers and beats go on, and report nothing. An entry that was disabled is sent again.

-- step: drop what workers and beats report
DROP TABLE IF EXISTS celery_beat;
ALTER TABLE kombu_consumer
    DROP COLUMN IF EXISTS name, DROP COLUMN IF EXISTS pool, DROP COLUMN IF EXISTS slots,
    DROP COLUMN IF EXISTS app_version, DROP COLUMN IF EXISTS beat_at, DROP COLUMN IF EXISTS busy,
    DROP COLUMN IF EXISTS running, DROP COLUMN IF EXISTS draining;
ALTER TABLE kombu_lost_consumer
    DROP COLUMN IF EXISTS name, DROP COLUMN IF EXISTS pool, DROP COLUMN IF EXISTS slots,
    DROP COLUMN IF EXISTS app_version, DROP COLUMN IF EXISTS queues;
ALTER TABLE celery_beat_entry
    DROP COLUMN IF EXISTS task, DROP COLUMN IF EXISTS schedule, DROP COLUMN IF EXISTS next_run_at,
    DROP COLUMN IF EXISTS enabled, DROP COLUMN IF EXISTS counts_from, DROP COLUMN IF EXISTS requested_at,
    DROP COLUMN IF EXISTS sent_at, DROP COLUMN IF EXISTS last_task_id;
