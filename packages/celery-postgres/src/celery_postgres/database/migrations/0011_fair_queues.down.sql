-- The messages of fair queues are claimed like scheduled ones whose time has come. The columns go with their indexes: a
-- DROP INDEX CONCURRENTLY would wait for every open transaction, without an end.

-- step: drop the keys
ALTER TABLE kombu_queue DROP COLUMN IF EXISTS fair, DROP COLUMN IF EXISTS refuses;
ALTER TABLE kombu_message DROP COLUMN IF EXISTS flow_key, DROP COLUMN IF EXISTS flow_later;

-- step: drop the limits
DROP FUNCTION IF EXISTS kombu_admit(bigint[], text[]);
DROP FUNCTION IF EXISTS kombu_room(bigint, bigint, bigint);
DROP FUNCTION IF EXISTS kombu_limit_of(bigint, bigint);
DROP TABLE IF EXISTS kombu_throttle;
DROP TABLE IF EXISTS kombu_limit;
