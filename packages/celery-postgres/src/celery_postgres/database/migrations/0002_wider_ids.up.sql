-- int4 ends after 2^31 publishes, which is 6.5 days at 3,800 a second; the sequences are bigint already.
-- PostgreSQL rewrites a table for this under an exclusive lock, once in its life: docs/backend/migrating.md says for how
-- long. Each table is a transaction of its own, so that no two are locked together.

-- Stock's foreign key makes each publish lock its queue's row, and the end of any queue (each reply to `inspect` has one)
-- read all messages: 0.5 s a million. Messages of a queue that is gone are found by the indexes, and deleted.
-- step: drop the foreign key from messages to queues
-- unless: NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_message')
--   AND conname = 'FK_kombu_message_queue')
ALTER TABLE kombu_message DROP CONSTRAINT IF EXISTS "FK_kombu_message_queue";

-- step: widen kombu_queue.id
-- unless: NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('kombu_queue') AND attname = 'id'
--   AND atttypid = 'integer'::regtype)
ALTER TABLE kombu_queue ALTER COLUMN id TYPE bigint;

-- Both columns at once: one rewrite instead of two.
-- step: widen kombu_message.id and queue_id
-- unless: NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('kombu_message')
--   AND attname IN ('id', 'queue_id') AND atttypid = 'integer'::regtype)
ALTER TABLE kombu_message ALTER COLUMN id TYPE bigint, ALTER COLUMN queue_id TYPE bigint;

-- step: widen celery_taskmeta.id
-- unless: NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('celery_taskmeta') AND attname = 'id'
--   AND atttypid = 'integer'::regtype)
ALTER TABLE celery_taskmeta ALTER COLUMN id TYPE bigint;

-- step: widen celery_tasksetmeta.id
-- unless: NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('celery_tasksetmeta') AND attname = 'id'
--   AND atttypid = 'integer'::regtype)
ALTER TABLE celery_tasksetmeta ALTER COLUMN id TYPE bigint;
