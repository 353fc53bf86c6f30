-- The indexes of the broker's statements, in the place of stock's.

-- A million future tasks must not stand in front of a claim, so ready and scheduled messages have an index each.
-- `id + 0` and not `id`: the planner would else take the primary key, which has that order too, and read the whole table
-- for each priority that has no message (from 7,000 messages/s down to 300 after the first autovacuum).
-- concurrently: ix_kombu_message_ready on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_ready ON kombu_message (queue_id, priority DESC, (id + 0))
    WHERE visible AND available_at IS NULL;

-- concurrently: ix_kombu_message_timed on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_timed ON kombu_message (queue_id, available_at)
    WHERE visible AND available_at IS NOT NULL;

-- concurrently: ix_kombu_message_failed on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_failed ON kombu_message (queue_id, priority DESC, available_at)
    WHERE visible AND failures > 0;

-- concurrently: ix_kombu_message_claimed on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_claimed ON kombu_message (consumer_id) WHERE consumer_id IS NOT NULL;

-- concurrently: ix_kombu_message_expires on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_expires ON kombu_message (expires_at)
    WHERE visible AND expires_at IS NOT NULL;

-- concurrently: ix_kombu_message_task on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_task ON kombu_message (task_id) WHERE task_id IS NOT NULL;

-- What stock consumers took and left: with it every message is in some index by its queue.
-- concurrently: ix_kombu_message_taken on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_taken ON kombu_message (queue_id) WHERE NOT visible AND consumer_id IS NULL;

-- Stock's own three indexes cost an entry at each insert and each claim, and no statement of this package reads them.
-- drop concurrently: ix_kombu_message_visible
DROP INDEX CONCURRENTLY ix_kombu_message_visible;

-- drop concurrently: ix_kombu_message_timestamp
DROP INDEX CONCURRENTLY ix_kombu_message_timestamp;

-- drop concurrently: ix_kombu_message_timestamp_id
DROP INDEX CONCURRENTLY ix_kombu_message_timestamp_id;

-- Until ix_kombu_message_failed, without the priority.
-- drop concurrently: ix_kombu_message_suspect
DROP INDEX CONCURRENTLY ix_kombu_message_suspect;
