-- What the result backend adds to stock Celery's tables: columns, chords that are counted, waiters.

-- Only columns that may be null, which rewrites nothing. The first six are stock's own since Celery 4.4, the last since 5.7.
-- step: add columns to celery_taskmeta
-- unless: 7 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('celery_taskmeta') AND NOT attisdropped
--   AND attname IN ('name', 'args', 'kwargs', 'worker', 'retries', 'queue', 'children'))
ALTER TABLE celery_taskmeta
    ADD COLUMN IF NOT EXISTS name varchar(155),
    ADD COLUMN IF NOT EXISTS args bytea,
    ADD COLUMN IF NOT EXISTS kwargs bytea,
    ADD COLUMN IF NOT EXISTS worker varchar(155),
    ADD COLUMN IF NOT EXISTS retries integer,
    ADD COLUMN IF NOT EXISTS queue varchar(155),
    ADD COLUMN IF NOT EXISTS children bytea;

-- step: set the default of celery_tasksetmeta.id
-- unless: EXISTS (SELECT FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
--   WHERE d.adrelid = to_regclass('celery_tasksetmeta') AND a.attname = 'id')
ALTER TABLE celery_tasksetmeta ALTER COLUMN id SET DEFAULT nextval('taskset_id_sequence');

-- A chord whose header still runs, or whose body is due. `size` is known when the last part has been published.
-- step: create the chords
-- unless: to_regclass('celery_chord') IS NOT NULL
CREATE TABLE celery_chord (
    id text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    size integer,
    added integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    body text
) WITH (fillfactor = 50);
CREATE INDEX ix_celery_chord_due_at ON celery_chord (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ix_celery_chord_created_at ON celery_chord (created_at);

-- The parts that have returned. The primary key is what counts each of them once. `result` is only set for parts whose
-- result is not in celery_taskmeta, because it is ignored.
-- step: create the parts of chords
-- unless: to_regclass('celery_chord_part') IS NOT NULL
CREATE TABLE celery_chord_part (
    chord_id text NOT NULL,
    task_id text NOT NULL,
    position integer,
    status text NOT NULL,
    result bytea,
    PRIMARY KEY (chord_id, task_id)
);

-- Who waits for which task. A crash of the server may lose it: a waiter connects anew and registers again.
-- step: create the waiters
-- unless: to_regclass('celery_waiter') IS NOT NULL AND to_regclass('celery_listener_sequence') IS NOT NULL
CREATE UNLOGGED TABLE IF NOT EXISTS celery_waiter (
    task_id text NOT NULL,
    listener bigint NOT NULL,
    slot bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, listener)
);
CREATE INDEX IF NOT EXISTS ix_celery_waiter_listener ON celery_waiter (listener);
CREATE SEQUENCE IF NOT EXISTS celery_listener_sequence;

-- What a role that may only publish, or wait, does to existing rows: by functions of the tables' owner, one row at a time.
-- With a right to UPDATE or DELETE it could lock all chords or the whole table, and no result would be stored.
-- step: create the functions of publishers and waiters
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
    -- A role that may insert rows did this itself before the functions existed.
    FOR one IN
        SELECT DISTINCT made.signature, acl.grantee::regrole AS grantee
        FROM (VALUES
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
