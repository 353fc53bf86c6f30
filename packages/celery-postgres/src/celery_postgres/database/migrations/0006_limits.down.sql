-- One table at a time: no two are locked together.

-- step: drop the limits of kombu_queue
ALTER TABLE IF EXISTS kombu_queue
    DROP CONSTRAINT IF EXISTS kombu_queue_name,
    DROP CONSTRAINT IF EXISTS kombu_queue_times;

-- step: drop the limits of kombu_binding
ALTER TABLE IF EXISTS kombu_binding
    DROP CONSTRAINT IF EXISTS kombu_binding_pattern,
    DROP CONSTRAINT IF EXISTS kombu_binding_names;

-- step: drop the limits of kombu_consumer
ALTER TABLE IF EXISTS kombu_consumer
    DROP CONSTRAINT IF EXISTS kombu_consumer_hostname;

-- step: drop the limits of kombu_message
ALTER TABLE IF EXISTS kombu_message
    DROP CONSTRAINT IF EXISTS kombu_message_columns;

-- step: drop the limits of celery_chord
ALTER TABLE IF EXISTS celery_chord
    DROP CONSTRAINT IF EXISTS celery_chord_numbers;

-- step: drop the limits of celery_tasksetmeta
ALTER TABLE IF EXISTS celery_tasksetmeta
    DROP CONSTRAINT IF EXISTS celery_tasksetmeta_date_done;

-- step: drop the functions
DROP FUNCTION IF EXISTS kombu_limits(), kombu_mend(text), kombu_limit(text), kombu_refuse(text);
