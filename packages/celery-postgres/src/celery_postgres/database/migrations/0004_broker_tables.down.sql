-- guard: dead letters are in kombu_dead_letter (%s), for which stock has no table: requeue or purge them
-- unless: to_regclass('kombu_dead_letter') IS NULL
SELECT count(*) FROM kombu_dead_letter;

-- step: drop the broker's own tables
DROP TABLE IF EXISTS kombu_subscription, kombu_consumer, kombu_binding, kombu_dead_letter;
DROP TABLE IF EXISTS kombu_stopped_task, celery_beat_entry;

-- step: drop the function kombu_catch_up
DROP FUNCTION IF EXISTS kombu_catch_up(text);
