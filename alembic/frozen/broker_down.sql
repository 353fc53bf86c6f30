-- Back to stock Kombu's tables. What was claimed becomes visible again, and runs again: nothing is lost.
-- The wider ids stay, because there may be one that int4 cannot hold; stock works with both.
UPDATE kombu_message SET visible = true WHERE consumer_id IS NOT NULL;
DELETE FROM kombu_message AS message
WHERE NOT EXISTS (SELECT FROM kombu_queue AS queue WHERE queue.id = message.queue_id);
ALTER TABLE kombu_message
    ADD CONSTRAINT "FK_kombu_message_queue" FOREIGN KEY (queue_id) REFERENCES kombu_queue (id);
DROP FUNCTION IF EXISTS kombu_catch_up(text);
DROP TABLE kombu_subscription, kombu_consumer, kombu_binding, kombu_dead_letter;
DROP TABLE IF EXISTS kombu_stopped_task, celery_beat_entry;
DROP INDEX ix_kombu_message_ready, ix_kombu_message_timed, ix_kombu_message_failed, ix_kombu_message_claimed,
    ix_kombu_message_expires, ix_kombu_message_task, ix_kombu_message_taken;
ALTER TABLE kombu_message
    DROP COLUMN task_id, DROP COLUMN tenant_id, DROP COLUMN enqueued_at, DROP COLUMN available_at,
    DROP COLUMN expires_at, DROP COLUMN consumer_id, DROP COLUMN claimed_at, DROP COLUMN fence,
    DROP COLUMN priority, DROP COLUMN failures, DROP COLUMN revoked;
ALTER TABLE kombu_message
    DROP CONSTRAINT IF EXISTS kombu_message_columns,
    ALTER COLUMN id DROP DEFAULT, ALTER COLUMN visible DROP DEFAULT, ALTER COLUMN version DROP DEFAULT;
ALTER TABLE kombu_queue
    DROP CONSTRAINT IF EXISTS kombu_queue_name, DROP CONSTRAINT IF EXISTS kombu_queue_times,
    ALTER COLUMN id DROP DEFAULT;
DROP FUNCTION IF EXISTS kombu_refuse(text);
ALTER TABLE kombu_message RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_limit
);
ALTER TABLE kombu_queue
    DROP COLUMN auto_delete, DROP COLUMN expires_ms, DROP COLUMN message_ttl_ms, DROP COLUMN consumed,
    DROP COLUMN paused, DROP COLUMN used_at;
CREATE INDEX ix_kombu_message_visible ON kombu_message (visible);
CREATE INDEX ix_kombu_message_timestamp ON kombu_message ("timestamp");
CREATE INDEX ix_kombu_message_timestamp_id ON kombu_message ("timestamp", id);
