-- concurrently: ix_kombu_message_task on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_task ON kombu_message (task_id) WHERE task_id IS NOT NULL;

-- drop concurrently: ix_kombu_message_task_claimed
DROP INDEX CONCURRENTLY ix_kombu_message_task_claimed;

-- drop concurrently: ix_kombu_message_task_waiting
DROP INDEX CONCURRENTLY ix_kombu_message_task_waiting;
