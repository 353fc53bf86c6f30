-- What the result backend adds to stock Celery's tables. Runs in one transaction, and again without harm; on
-- celery_taskmeta only columns that may be null, which rewrites nothing. The first six are stock's own since Celery 4.4,
-- the last since 5.7.
ALTER TABLE celery_taskmeta
    ADD COLUMN IF NOT EXISTS name varchar(155),
    ADD COLUMN IF NOT EXISTS args bytea,
    ADD COLUMN IF NOT EXISTS kwargs bytea,
    ADD COLUMN IF NOT EXISTS worker varchar(155),
    ADD COLUMN IF NOT EXISTS retries integer,
    ADD COLUMN IF NOT EXISTS queue varchar(155),
    ADD COLUMN IF NOT EXISTS children bytea;

-- A chord whose header still runs, or whose body is due. `size` is known when the last part has been published.
CREATE TABLE IF NOT EXISTS celery_chord (
    id text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    size integer,
    added integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    body text
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS ix_celery_chord_due_at ON celery_chord (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_celery_chord_created_at ON celery_chord (created_at);

-- The parts that have returned. The primary key is what counts each of them once. `result` is there only for those
-- whose result is not in celery_taskmeta, because it is ignored.
CREATE TABLE IF NOT EXISTS celery_chord_part (
    chord_id text NOT NULL,
    task_id text NOT NULL,
    position integer,
    status text NOT NULL,
    result bytea,
    PRIMARY KEY (chord_id, task_id)
);

-- Who waits for which task. A crash of the server may lose it: whoever waits connects anew and says so again.
CREATE UNLOGGED TABLE IF NOT EXISTS celery_waiter (
    task_id text NOT NULL,
    listener bigint NOT NULL,
    slot bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, listener)
);
CREATE INDEX IF NOT EXISTS ix_celery_waiter_listener ON celery_waiter (listener);
CREATE SEQUENCE IF NOT EXISTS celery_listener_sequence;

-- Numbers and times that no statement fails on.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = 'celery_chord'::regclass AND conname = 'celery_chord_numbers'
    ) THEN
        UPDATE celery_chord SET size = least(greatest(size, 0), 1000000000) WHERE size NOT BETWEEN 0 AND 1000000000;
        ALTER TABLE celery_chord ADD CONSTRAINT celery_chord_numbers CHECK (
            CASE WHEN size NOT BETWEEN 0 AND 1000000000 OR octet_length(id) > 1000
                THEN kombu_refuse('celery_chord: size is 0 to 1000000000, an id has at most 1000 bytes') ELSE true END
        ) NOT VALID;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'celery_tasksetmeta'::regclass AND conname = 'celery_tasksetmeta_date_done'
    ) THEN
        UPDATE celery_tasksetmeta SET date_done = least(greatest(date_done, '1970-01-01'), '9999-12-31')
        WHERE date_done < '1970-01-01' OR date_done >= '10000-01-01';
        ALTER TABLE celery_tasksetmeta ADD CONSTRAINT celery_tasksetmeta_date_done CHECK (
            CASE WHEN date_done < '1970-01-01' OR date_done >= '10000-01-01'
                THEN kombu_refuse('celery_tasksetmeta: date_done is of the years 1970 to 9999') ELSE true END
        ) NOT VALID;
    END IF;
END
$$;
ALTER TABLE celery_tasksetmeta ALTER COLUMN id SET DEFAULT nextval('taskset_id_sequence');

-- What whoever may only publish, or wait, does to rows that are there: by functions of the tables' owner, one row at a
-- time. With a right to UPDATE or DELETE it could lock all chords or the whole table, and no result would be stored.
DO $functions$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT *
        FROM (VALUES
            ('celery_chord', 'celery_size_chord(chord text, size integer)', 'TABLE (id text, is_due boolean)', $sql$
                INSERT INTO celery_chord AS chord (id, size) VALUES ($1, $2)
                ON CONFLICT (id) DO UPDATE
                SET size = coalesce(chord.size, excluded.size),
                    due_at = CASE
                        WHEN chord.done >= coalesce(chord.size, excluded.size) + chord.added AND chord.done > 0 THEN now()
                    END
                RETURNING chord.id, chord.due_at IS NOT NULL
            $sql$),
            ('celery_tasksetmeta', 'celery_save_group(group_id text, result bytea, date_done timestamp)', 'void', $sql$
                INSERT INTO celery_tasksetmeta (taskset_id, result, date_done) VALUES ($1, $2, $3)
                ON CONFLICT (taskset_id) DO UPDATE SET result = $2, date_done = $3
            $sql$),
            ('celery_waiter', 'celery_give_up_waiting(listener bigint, task_ids text[])', 'void', $sql$
                DELETE FROM celery_waiter AS waiter WHERE waiter.listener = $1 AND waiter.task_id = ANY ($2)
            $sql$)
        ) AS made (relation, signature, gives, body)
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION %s RETURNS %s LANGUAGE sql SECURITY DEFINER SET search_path = %I, pg_temp AS %L',
            one.signature, one.gives, current_schema(), one.body
        );
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', one.signature);
    END LOOP;
    REVOKE ALL ON FUNCTION kombu_catch_up(text) FROM PUBLIC;
    -- Whoever may insert rows did this himself until now.
    FOR one IN
        SELECT DISTINCT made.signature, acl.grantee::regrole AS grantee
        FROM (VALUES
            ('kombu_message', 'kombu_catch_up(text)'),
            ('celery_chord', 'celery_size_chord(text, integer)'),
            ('celery_tasksetmeta', 'celery_save_group(text, bytea, timestamp)'),
            ('celery_waiter', 'celery_give_up_waiting(bigint, text[])')
        ) AS made (relation, signature)
        CROSS JOIN LATERAL (
            SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = made.relation::regclass
            UNION ALL
            SELECT (aclexplode(a.attacl)).* FROM pg_attribute AS a WHERE a.attrelid = made.relation::regclass
        ) AS acl
        WHERE acl.privilege_type = 'INSERT' AND acl.grantee <> 0
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', one.signature, one.grantee);
    END LOOP;
END
$functions$;
