-- Only what 0001 created is dropped. Adopted tables stay: they were there before.

-- guard: undelivered messages are in kombu_message (%s): let a worker consume them
-- unless: to_regclass('kombu_message') IS NULL
SELECT count(*) FROM kombu_message
WHERE visible AND obj_description('kombu_message'::regclass, 'pg_class') = 'made by celery_postgres migration 0001';

-- guard: results are in celery_taskmeta (%s): let them expire, or run `celery backend_cleanup`
-- unless: to_regclass('celery_taskmeta') IS NULL
SELECT count(*) FROM celery_taskmeta
WHERE obj_description('celery_taskmeta'::regclass, 'pg_class') = 'made by celery_postgres migration 0001';

-- An adopted kombu_message refers to kombu_queue, which then stays as well.
-- step: drop the tables that 0001 created
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT made.relation, made.sequence
        FROM (VALUES
            (1, 'kombu_message', 'message_id_sequence'),
            (2, 'kombu_queue', 'queue_id_sequence'),
            (3, 'celery_taskmeta', 'task_id_sequence'),
            (4, 'celery_tasksetmeta', 'taskset_id_sequence')
        ) AS made (place, relation, sequence)
        WHERE obj_description(to_regclass(made.relation), 'pg_class') = 'made by celery_postgres migration 0001'
        ORDER BY made.place
    LOOP
        IF one.relation <> 'kombu_queue' OR to_regclass('kombu_message') IS NULL THEN
            EXECUTE format('DROP TABLE %I', one.relation);
            EXECUTE format('DROP SEQUENCE IF EXISTS %I', one.sequence);
        END IF;
    END LOOP;
END
$$;
