-- Stock's own first, so that its consumers need not read the whole table meanwhile.

-- concurrently: ix_kombu_message_visible on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_visible ON kombu_message (visible);

-- concurrently: ix_kombu_message_timestamp on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_timestamp ON kombu_message ("timestamp");

-- concurrently: ix_kombu_message_timestamp_id on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_timestamp_id ON kombu_message ("timestamp", id);

-- drop concurrently: ix_kombu_message_ready
DROP INDEX CONCURRENTLY ix_kombu_message_ready;

-- drop concurrently: ix_kombu_message_timed
DROP INDEX CONCURRENTLY ix_kombu_message_timed;

-- drop concurrently: ix_kombu_message_failed
DROP INDEX CONCURRENTLY ix_kombu_message_failed;

-- drop concurrently: ix_kombu_message_claimed
DROP INDEX CONCURRENTLY ix_kombu_message_claimed;

-- drop concurrently: ix_kombu_message_expires
DROP INDEX CONCURRENTLY ix_kombu_message_expires;

-- drop concurrently: ix_kombu_message_task
DROP INDEX CONCURRENTLY ix_kombu_message_task;

-- drop concurrently: ix_kombu_message_taken
DROP INDEX CONCURRENTLY ix_kombu_message_taken;
