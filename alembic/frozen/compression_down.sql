-- Back to PostgreSQL's defaults, where `compression.sql` may have left them, in its order. What is stored stays as it is,
-- and readable.
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    one record;
BEGIN
    FOR one IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name, a.attcompression = 'l' AS compressed
        FROM unnest(ARRAY[
            'celery_taskmeta', 'celery_tasksetmeta', 'celery_chord_part', 'celery_chord', 'kombu_message',
            'kombu_dead_letter'
        ]) WITH ORDINALITY AS changed (name, place)
        JOIN pg_attribute AS a ON a.attrelid = to_regclass(changed.name)
        WHERE a.attcompression = 'l'
           OR (changed.name = 'kombu_message' AND a.attname = 'payload' AND a.attstorage = 'e' AND NOT has_lz4)
        ORDER BY changed.place, a.attnum
    LOOP
        IF one.compressed THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION default', one.relation, one.name);
        ELSE
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE EXTENDED', one.relation, one.name);
        END IF;
    END LOOP;
END
$$;
