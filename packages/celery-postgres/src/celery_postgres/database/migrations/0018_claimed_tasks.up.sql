-- Messages by their task: waiting and claimed ones have an index each, because a claim enters its messages once more into
-- every index that holds them. With 10,000,000 waiting that was a random page of a gigabyte for each message, and half of
-- what a claim cost the server; what is claimed is little.

-- concurrently: ix_kombu_message_task_waiting on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_task_waiting ON kombu_message (task_id) WHERE visible AND task_id IS NOT NULL;

-- concurrently: ix_kombu_message_task_claimed on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_task_claimed ON kombu_message (task_id)
    WHERE NOT visible AND task_id IS NOT NULL;

-- drop concurrently: ix_kombu_message_task
DROP INDEX CONCURRENTLY ix_kombu_message_task;
