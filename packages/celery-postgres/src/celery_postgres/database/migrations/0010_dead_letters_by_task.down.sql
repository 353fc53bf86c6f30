-- drop concurrently: ix_kombu_dead_letter_task
DROP INDEX CONCURRENTLY ix_kombu_dead_letter_task;
