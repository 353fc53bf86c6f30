-- Back to PostgreSQL's defaults, where the way up may have left them. What is stored stays as it is, and readable.

-- step: compress celery_taskmeta as the server does by default
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_taskmeta'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE celery_taskmeta ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
END
$$;

-- step: compress celery_tasksetmeta as the server does by default
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_tasksetmeta'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE celery_tasksetmeta ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
END
$$;

-- step: compress celery_chord_part as the server does by default
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_chord_part'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE celery_chord_part ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
END
$$;

-- step: compress celery_chord as the server does by default
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_chord'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE celery_chord ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
END
$$;

-- step: compress kombu_message as the server does by default
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'kombu_message'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE kombu_message ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
    IF NOT has_lz4 AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'kombu_message'::regclass AND attname = 'payload' AND attstorage = 'e'
    ) THEN
        ALTER TABLE kombu_message ALTER COLUMN payload SET STORAGE EXTENDED;
    END IF;
END
$$;

-- step: compress kombu_dead_letter as the server does by default
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'kombu_dead_letter'::regclass AND attcompression = 'l'
        ORDER BY attnum
    LOOP
        EXECUTE format('ALTER TABLE kombu_dead_letter ALTER COLUMN %I SET COMPRESSION default', name);
    END LOOP;
END
$$;
