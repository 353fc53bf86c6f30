-- How payloads and results of more than 2 kB are stored. Runs in one transaction, and again without harm: a column that
-- somebody has given another compression or storage than the default keeps it.
--
-- PostgreSQL compresses them with pglz, unless it is told otherwise: 25 to 31 ms of processor time for an INSERT of a
-- megabyte of JSON, of which lz4 leaves 10 to 11, at the same size (0.37 and 0.39 MB).
-- A server that was built without lz4 stores payloads as they are, which costs what lz4 does and 1.04 MB: a message is
-- written once, read once and deleted. Dead letters and results stay for days, and pglz keeps them small there.
--
-- The tables in the order in which storing a result locks them (`record`): another one is a deadlock with each worker.
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    one record;
BEGIN
    FOR one IN
        SELECT long.relation, a.attname AS name
        FROM (VALUES
            (1, 'celery_taskmeta', ARRAY['result', 'traceback', 'args', 'kwargs', 'children']),
            (2, 'celery_tasksetmeta', ARRAY['result']),
            (3, 'celery_chord_part', ARRAY['result']),
            (4, 'celery_chord', ARRAY['body']),
            (5, 'kombu_message', ARRAY['payload']),
            (6, 'kombu_dead_letter', ARRAY['payload'])
        ) AS long (place, relation, names)
        JOIN pg_attribute AS a ON a.attrelid = to_regclass(long.relation) AND a.attname = ANY (long.names)
        WHERE a.attstorage = 'x' AND a.attcompression = ''
        ORDER BY long.place, a.attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET COMPRESSION lz4', one.relation, one.name);
        ELSIF one.relation = 'kombu_message' THEN
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET STORAGE EXTERNAL', one.relation, one.name);
        END IF;
    END LOOP;
END
$$;
