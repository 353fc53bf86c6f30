-- How payloads and results of more than 2 kB are stored. Runs in one transaction, and again without harm: a column that
-- somebody has given a compression or another storage keeps it.
--
-- PostgreSQL compresses them with pglz, unless it is told otherwise: 25 to 31 ms of processor time for an INSERT of a
-- megabyte of JSON, of which lz4 leaves 10 to 11, at the same size (0.37 and 0.39 MB).
-- A server that was built without lz4 stores payloads as they are, which costs what lz4 does and 1.04 MB: a message is
-- written once, read once and deleted. Dead letters and results stay for days, and pglz keeps them small there.
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    one record;
BEGIN
    FOR one IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name
        FROM pg_attribute AS a
        WHERE a.attstorage = 'x' AND a.attcompression = ''
          AND (a.attrelid, a.attname) IN (
              (to_regclass('kombu_message'), 'payload'),
              (to_regclass('kombu_dead_letter'), 'payload'),
              (to_regclass('celery_taskmeta'), 'result'),
              (to_regclass('celery_chord'), 'body'),
              (to_regclass('celery_chord_part'), 'result')
          )
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', one.relation, one.name);
        ELSIF one.relation = to_regclass('kombu_message') THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE EXTERNAL', one.relation, one.name);
        END IF;
    END LOOP;
END
$$;
