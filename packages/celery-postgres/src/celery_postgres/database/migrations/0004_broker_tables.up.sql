-- The broker's own tables: bindings, consumer processes, their subscriptions, dead letters, stopped tasks, beats.

-- step: create the bindings
-- unless: to_regclass('kombu_binding') IS NOT NULL
CREATE TABLE kombu_binding (
    exchange text NOT NULL,
    type text NOT NULL,
    routing_key text NOT NULL,
    pattern text,
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    PRIMARY KEY (exchange, routing_key, queue_id)
);
CREATE INDEX ix_kombu_binding_queue ON kombu_binding (queue_id);

-- step: create the consumers
-- unless: to_regclass('kombu_consumer') IS NOT NULL
CREATE TABLE kombu_consumer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hostname text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    locked boolean NOT NULL DEFAULT false,
    beat bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The session of its heartbeat: the server process, the advisory lock that it holds, and whether the server has the
-- process' own socket at the other end. Null behind a transaction pooler, and in releases that know `locked` alone.
-- step: add the sessions of the consumers
-- unless: 3 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_consumer') AND NOT attisdropped
--   AND attname IN ('session_pid', 'session_key', 'session_direct'))
ALTER TABLE kombu_consumer
    ADD COLUMN IF NOT EXISTS session_pid integer,
    ADD COLUMN IF NOT EXISTS session_key bigint,
    ADD COLUMN IF NOT EXISTS session_direct boolean NOT NULL DEFAULT false;

-- step: create the subscriptions
-- unless: to_regclass('kombu_subscription') IS NOT NULL
CREATE TABLE kombu_subscription (
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    consumer_id bigint NOT NULL REFERENCES kombu_consumer (id) ON DELETE CASCADE,
    asleep boolean NOT NULL DEFAULT true,
    slept_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_id, consumer_id)
) WITH (fillfactor = 50);
CREATE INDEX ix_kombu_subscription_consumer ON kombu_subscription (consumer_id);

-- step: create the dead letters
-- unless: to_regclass('kombu_dead_letter') IS NOT NULL
CREATE TABLE kombu_dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    died_at timestamptz NOT NULL DEFAULT now(),
    message_id bigint NOT NULL,
    failures smallint NOT NULL,
    enqueued_at timestamptz,
    tenant_id uuid,
    queue text,
    task_id text,
    reason text NOT NULL,
    payload text NOT NULL
);
CREATE INDEX ix_kombu_dead_letter_died_at ON kombu_dead_letter (died_at);

-- Tasks that no worker is to run, by name. An operator writes it, consumers read it with their heartbeat.
-- step: create the stopped tasks
-- unless: to_regclass('kombu_stopped_task') IS NOT NULL
CREATE TABLE kombu_stopped_task (
    name text PRIMARY KEY,
    stopped_at timestamptz NOT NULL DEFAULT now()
);

-- When each entry of `beat_schedule` was last sent, for any number of beats with the package's scheduler.
-- step: create the entries of beats
-- unless: to_regclass('celery_beat_entry') IS NOT NULL
CREATE TABLE celery_beat_entry (
    name text PRIMARY KEY,
    last_run_at timestamptz NOT NULL DEFAULT now(),
    runs bigint NOT NULL DEFAULT 0
);

-- Moves the sequence of a table's ids beyond the greatest of them: logical replication copies rows and no sequences, and
-- neither does a restore of single tables. Only a table's owner may do that, and a publisher may not even see the ids, so
-- the function runs as the owner: it reveals nothing, and does nothing where no sequence lags. It takes no lock, which
-- anybody might hold: of two calls at once the later may set the sequence back by a moment, and its next id is then asked
-- for again. Ids from 2^62 on are nobody's count.
-- step: create the function kombu_catch_up
DO $$
BEGIN
    EXECUTE format(
        $create$
        CREATE OR REPLACE FUNCTION kombu_catch_up(relation text) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = %I, pg_temp
        AS $function$
        DECLARE
            sequence text := CASE relation
                WHEN 'kombu_message' THEN 'message_id_sequence'
                WHEN 'kombu_queue' THEN 'queue_id_sequence'
                WHEN 'celery_taskmeta' THEN 'task_id_sequence'
                WHEN 'celery_tasksetmeta' THEN 'taskset_id_sequence'
                WHEN 'kombu_dead_letter' THEN pg_get_serial_sequence(relation, 'id')
            END;
            greatest_id bigint;
            behind boolean;
        BEGIN
            IF sequence IS NULL THEN
                RETURN;
            END IF;
            EXECUTE format('SELECT id FROM %%I WHERE id < 4611686018427387904 ORDER BY id DESC LIMIT 1', relation)
            INTO greatest_id;
            EXECUTE format('SELECT last_value < $1 FROM %%s', sequence) INTO behind USING greatest_id;
            IF behind THEN
                PERFORM setval(sequence::regclass, greatest_id);
            END IF;
        END
        $function$
        $create$,
        current_schema()
    );
END
$$;
REVOKE ALL ON FUNCTION kombu_catch_up(text) FROM PUBLIC;

-- A role that may insert messages moved the sequence itself before the function existed.
-- step: grant kombu_catch_up to the roles that publish
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT DISTINCT acl.grantee::regrole AS grantee
        FROM (
            SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = 'kombu_message'::regclass
            UNION ALL
            SELECT (aclexplode(a.attacl)).* FROM pg_attribute AS a WHERE a.attrelid = 'kombu_message'::regclass
        ) AS acl
        WHERE acl.privilege_type = 'INSERT' AND acl.grantee <> 0
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION kombu_catch_up(text) TO %s', one.grantee);
    END LOOP;
END
$$;
