-- The messages of fair queues are claimed like scheduled ones whose time has come.

-- drop concurrently: ix_kombu_message_later
DROP INDEX CONCURRENTLY ix_kombu_message_later;

-- drop concurrently: ix_kombu_message_running
DROP INDEX CONCURRENTLY ix_kombu_message_running;

-- drop concurrently: ix_kombu_message_fair
DROP INDEX CONCURRENTLY ix_kombu_message_fair;

-- step: drop the limits
DROP FUNCTION IF EXISTS kombu_room(bigint, bigint, bigint);
DROP TABLE IF EXISTS kombu_throttle;
DROP TABLE IF EXISTS kombu_limit;

-- step: drop the keys
ALTER TABLE kombu_queue DROP COLUMN IF EXISTS fair;
ALTER TABLE kombu_message DROP COLUMN IF EXISTS flow_key, DROP COLUMN IF EXISTS flow_later;
