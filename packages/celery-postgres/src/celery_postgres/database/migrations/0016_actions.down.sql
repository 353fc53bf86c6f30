-- guard: what people did is recorded in console_action (%s): keep a copy of it
-- unless: to_regclass('console_action') IS NULL
SELECT count(*) FROM console_action;

-- step: drop the record of actions, and of lost workers
DROP TRIGGER IF EXISTS kombu_name_dead_letter ON kombu_dead_letter;
DROP FUNCTION IF EXISTS kombu_name_dead_letter();
ALTER TABLE kombu_dead_letter DROP COLUMN IF EXISTS task_name;
DROP TABLE IF EXISTS kombu_lost_consumer;
DROP TABLE IF EXISTS console_action;
