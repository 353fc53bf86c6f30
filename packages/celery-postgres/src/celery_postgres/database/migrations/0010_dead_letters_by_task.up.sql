-- What became of a task is asked by its id, also when its message is a dead letter. No publish and no claim pays for this
-- index: few messages become dead letters.
-- concurrently: ix_kombu_dead_letter_task on kombu_dead_letter
CREATE INDEX CONCURRENTLY ix_kombu_dead_letter_task ON kombu_dead_letter (task_id) WHERE task_id IS NOT NULL;
