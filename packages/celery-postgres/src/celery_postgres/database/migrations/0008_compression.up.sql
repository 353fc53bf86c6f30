-- How payloads and results of more than 2 kB are stored. A column that somebody has given another compression or storage
-- than the default keeps it.
--
-- PostgreSQL compresses them with pglz by default: 25 to 31 ms of processor time for an INSERT of a megabyte of JSON, of
-- which lz4 leaves 10 to 11, at the same size (0.37 and 0.39 MB).
-- A server that was built without lz4 stores payloads as they are, which costs what lz4 does and 1.04 MB: a message is
-- written once, read once and deleted. Dead letters and results stay for days, and pglz keeps them small there.
--
-- Only what is stored from now on is stored so. Each table is a transaction of its own: storing a result locks several.

-- step: compress celery_taskmeta
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_taskmeta'::regclass AND attname IN ('result', 'traceback', 'args', 'kwargs', 'children')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE celery_taskmeta ALTER COLUMN %I SET COMPRESSION lz4', name);
        END IF;
    END LOOP;
END
$$;

-- step: compress celery_tasksetmeta
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_tasksetmeta'::regclass AND attname IN ('result')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE celery_tasksetmeta ALTER COLUMN %I SET COMPRESSION lz4', name);
        END IF;
    END LOOP;
END
$$;

-- step: compress celery_chord_part
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_chord_part'::regclass AND attname IN ('result')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE celery_chord_part ALTER COLUMN %I SET COMPRESSION lz4', name);
        END IF;
    END LOOP;
END
$$;

-- step: compress celery_chord
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'celery_chord'::regclass AND attname IN ('body')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE celery_chord ALTER COLUMN %I SET COMPRESSION lz4', name);
        END IF;
    END LOOP;
END
$$;

-- step: compress kombu_message
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'kombu_message'::regclass AND attname IN ('payload')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE kombu_message ALTER COLUMN %I SET COMPRESSION lz4', name);
        ELSE
            EXECUTE format('ALTER TABLE kombu_message ALTER COLUMN %I SET STORAGE EXTERNAL', name);
        END IF;
    END LOOP;
END
$$;

-- step: compress kombu_dead_letter
DO $$
DECLARE
    has_lz4 boolean := EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    );
    name text;
BEGIN
    FOR name IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'kombu_dead_letter'::regclass AND attname IN ('payload')
          AND attstorage = 'x' AND attcompression = ''
        ORDER BY attnum
    LOOP
        IF has_lz4 THEN
            EXECUTE format('ALTER TABLE kombu_dead_letter ALTER COLUMN %I SET COMPRESSION lz4', name);
        END IF;
    END LOOP;
END
$$;
