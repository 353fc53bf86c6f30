-- What the broker adds to stock Kombu's tables. Runs in one transaction, and again without harm.
-- Every added column has a default or may be null, so that stock producers and consumers go on.

-- int4 ends after 2^31 publishes, which is 6.5 days at 3,800 a second; the sequences are bigint already.
-- On a table with rows this rewrites it under an exclusive lock.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name
        FROM pg_attribute AS a
        WHERE a.atttypid = 'integer'::regtype
          AND (a.attrelid, a.attname) IN (
              (to_regclass('kombu_queue'), 'id'),
              (to_regclass('kombu_message'), 'id'),
              (to_regclass('kombu_message'), 'queue_id'),
              (to_regclass('celery_taskmeta'), 'id'),
              (to_regclass('celery_tasksetmeta'), 'id')
          )
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', one.relation, one.name);
    END LOOP;
END
$$;

ALTER TABLE kombu_queue
    ADD COLUMN IF NOT EXISTS auto_delete boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS expires_ms bigint,
    ADD COLUMN IF NOT EXISTS message_ttl_ms bigint,
    ADD COLUMN IF NOT EXISTS consumed boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS paused boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS used_at timestamptz NOT NULL DEFAULT now();

ALTER TABLE kombu_message
    ADD COLUMN IF NOT EXISTS task_id text,
    ADD COLUMN IF NOT EXISTS tenant_id uuid,
    ADD COLUMN IF NOT EXISTS enqueued_at timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS available_at timestamptz,
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS consumer_id bigint,
    ADD COLUMN IF NOT EXISTS claimed_at timestamptz,
    ADD COLUMN IF NOT EXISTS fence bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS failures smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS revoked boolean NOT NULL DEFAULT false;

-- Stock's own three indexes cost an entry at each insert and each claim, and no statement of ours reads them.
DROP INDEX IF EXISTS ix_kombu_message_visible;
DROP INDEX IF EXISTS ix_kombu_message_timestamp;
DROP INDEX IF EXISTS ix_kombu_message_timestamp_id;
-- A million future tasks must not stand in front of a claim, so ready and timed messages have an index each.
-- `id + 0` and not `id`: the planner would else take the primary key, which has that order too, and read the whole
-- table for each priority that has no message (from 7,000 messages/s down to 300 after the first autovacuum).
CREATE INDEX IF NOT EXISTS ix_kombu_message_ready ON kombu_message (queue_id, priority DESC, (id + 0))
    WHERE visible AND available_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_kombu_message_timed ON kombu_message (queue_id, available_at)
    WHERE visible AND available_at IS NOT NULL;
DROP INDEX IF EXISTS ix_kombu_message_suspect;  -- until 202611291900, without the priority
CREATE INDEX IF NOT EXISTS ix_kombu_message_failed ON kombu_message (queue_id, priority DESC, available_at)
    WHERE visible AND failures > 0;
CREATE INDEX IF NOT EXISTS ix_kombu_message_claimed ON kombu_message (consumer_id) WHERE consumer_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_kombu_message_expires ON kombu_message (expires_at)
    WHERE visible AND expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS ix_kombu_message_task ON kombu_message (task_id) WHERE task_id IS NOT NULL;
-- What stock consumers took and left: with it every message is in some index by its queue.
CREATE INDEX IF NOT EXISTS ix_kombu_message_taken ON kombu_message (queue_id) WHERE NOT visible AND consumer_id IS NULL;
-- Stock's foreign key makes each publish lock its queue's row, and the end of any queue (each reply to `inspect` has one)
-- read all messages: 0.5 s a million. Messages of a queue that is gone are found by the indexes, and deleted.
ALTER TABLE kombu_message DROP CONSTRAINT IF EXISTS "FK_kombu_message_queue";
-- Every message dies twice, as a ready row and as a claimed one: the default of one fifth of the table comes too late.
ALTER TABLE kombu_message SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_limit = 2000
);

CREATE TABLE IF NOT EXISTS kombu_binding (
    exchange text NOT NULL,
    type text NOT NULL,
    routing_key text NOT NULL,
    pattern text,
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    PRIMARY KEY (exchange, routing_key, queue_id)
);
CREATE INDEX IF NOT EXISTS ix_kombu_binding_queue ON kombu_binding (queue_id);

CREATE TABLE IF NOT EXISTS kombu_consumer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hostname text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    locked boolean NOT NULL DEFAULT false,
    beat bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- The session of its heartbeat: the server process, the advisory lock that it holds, and whether the server has the
-- process' own socket at the other end. Null behind a transaction pooler, and in releases that know `locked` alone.
ALTER TABLE kombu_consumer
    ADD COLUMN IF NOT EXISTS session_pid integer,
    ADD COLUMN IF NOT EXISTS session_key bigint,
    ADD COLUMN IF NOT EXISTS session_direct boolean NOT NULL DEFAULT false;

CREATE TABLE IF NOT EXISTS kombu_subscription (
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    consumer_id bigint NOT NULL REFERENCES kombu_consumer (id) ON DELETE CASCADE,
    asleep boolean NOT NULL DEFAULT true,
    slept_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_id, consumer_id)
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS ix_kombu_subscription_consumer ON kombu_subscription (consumer_id);

CREATE TABLE IF NOT EXISTS kombu_dead_letter (
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
CREATE INDEX IF NOT EXISTS ix_kombu_dead_letter_died_at ON kombu_dead_letter (died_at);

-- Tasks that no worker is to run, by name. An operator writes it, consumers read it with their beat.
CREATE TABLE IF NOT EXISTS kombu_stopped_task (
    name text PRIMARY KEY,
    stopped_at timestamptz NOT NULL DEFAULT now()
);

-- When each entry of `beat_schedule` was last sent, for any number of beats with our scheduler.
CREATE TABLE IF NOT EXISTS celery_beat_entry (
    name text PRIMARY KEY,
    last_run_at timestamptz NOT NULL DEFAULT now(),
    runs bigint NOT NULL DEFAULT 0
);

-- What a row may hold, so that no row stops a statement that works on many rows: no number that overflows, no time that
-- cannot be subtracted, no pattern that is none.
--
-- A violated CHECK quotes the row in the server's log, and a message's row has a payload. So these CHECKs are never false:
-- they call a function that raises the error without the row. A good row costs no call, and 1 us.
CREATE OR REPLACE FUNCTION kombu_refuse(reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = reason;
END
$$;
GRANT EXECUTE ON FUNCTION kombu_refuse(text) TO PUBLIC;  -- PostgreSQL asks for it at each INSERT, of good rows too

DO $limits$
DECLARE
    -- Control characters, line and paragraph separators, and what turns the direction of writing.
    unprintable text := '[\u0001-\u001F\u007F-\u009F\u061C\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF]';
    one record;
    flawed text;
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        unprintable := '[\u0001-\u001F\u007F]';  -- the others may not have a number there
    END IF;
    FOR one IN
        SELECT rule.*
        FROM (VALUES
            (1, 'kombu_queue', 'name', 'a name is 1 to 200 printable characters',
                $sql$ name IS NULL OR name = '' OR name ~ %1$L $sql$,
                -- It stays a name of its own, and what waits under it stays as well.
                $sql$ name = left(regexp_replace(coalesce(name, ''), %1$L, '?', 'g'), 170) || '#' || id $sql$),
            (2, 'kombu_queue', 'times', 'x-expires and x-message-ttl are 0 to 100000000000000 milliseconds',
                $sql$ expires_ms NOT BETWEEN 0 AND 100000000000000
                    OR message_ttl_ms NOT BETWEEN 0 AND 100000000000000 $sql$,
                $sql$ expires_ms = CASE WHEN expires_ms IS NOT NULL
                        THEN least(greatest(expires_ms, 0), 100000000000000) END,
                    message_ttl_ms = CASE WHEN message_ttl_ms IS NOT NULL
                        THEN least(greatest(message_ttl_ms, 0), 100000000000000) END $sql$),
            -- What `topic.pattern` makes: words between dots, each a literal or `[^.]*`, and at most four `#`. Any other
            -- expression could be one that PostgreSQL refuses, or works on for minutes (180 times `[^.]*` in a row are
            -- 4 s), in the middle of somebody else's publish. NULL matches nothing until the binding is declared again.
            (3, 'kombu_binding', 'pattern', 'a pattern is what celery_postgres makes of a routing key',
                $sql$ pattern <> '^.*$' AND (char_length(pattern) > 2600 OR pattern ~ '[[:cntrl:]]'
                    OR char_length(replace(pattern, ')*', ')')) < char_length(pattern) - 4
                    OR replace(replace(pattern, '([^.]*\.)*', chr(1)), '(\.[^.]*)*', chr(2)) !~ replace(
                        '^\^\x01?W(\\\.\x01?W)*\x02?\$$', 'W', '(\[\^\.\]\*|([^!-/:-@\[-`{-~ \x01\x02]|\\[!-\-/:-@\[-`{-~ ])*)')
                    ) $sql$,
                $sql$ pattern = NULL $sql$),
            (4, 'kombu_binding', 'names', 'names of exchanges and routing keys are at most 255 printable characters',
                $sql$ char_length(exchange) NOT BETWEEN 1 AND 255 OR char_length(routing_key) > 255
                    OR char_length(type) > 255 OR concat(exchange, type, routing_key) ~ %1$L $sql$,
                NULL),  -- old rows stay: they are read, and never written again
            (5, 'kombu_consumer', 'hostname', 'a hostname is at most 255 printable characters',
                $sql$ char_length(hostname) > 255 OR hostname ~ %1$L $sql$,
                $sql$ hostname = left(regexp_replace(hostname, %1$L, '?', 'g'), 200) $sql$),
            (6, 'kombu_message', 'columns',
                'priority is 0 to 9, times are of the years 1970 to 9999, a task id has at most 1000 bytes, and what '
                'every message has is not null',
                $sql$ queue_id IS NULL OR visible IS NULL OR priority NOT BETWEEN 0 AND 9
                    OR available_at < '1970-01-01 00:00+00' OR available_at >= '10000-01-01 00:00+00'
                    OR expires_at < '1970-01-01 00:00+00' OR expires_at >= '10000-01-01 00:00+00'
                    OR enqueued_at < '1970-01-01 00:00+00' OR enqueued_at >= '10000-01-01 00:00+00'
                    OR octet_length(task_id) > 1000 $sql$,
                $sql$ queue_id = coalesce(queue_id, 0), visible = coalesce(visible, false),
                    priority = least(greatest(priority, 0), 9),
                    available_at = CASE WHEN available_at IS NOT NULL
                        THEN least(greatest(available_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    expires_at = CASE WHEN expires_at IS NOT NULL
                        THEN least(greatest(expires_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    enqueued_at = CASE WHEN enqueued_at IS NOT NULL
                        THEN least(greatest(enqueued_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    task_id = CASE WHEN octet_length(task_id) <= 1000 THEN task_id END $sql$)
        ) AS rule (place, relation, what, reason, flaw, mend)
        WHERE NOT EXISTS (
            SELECT FROM pg_constraint AS made
            WHERE made.conrelid = to_regclass(rule.relation) AND made.conname = rule.relation || '_' || rule.what
        )
        ORDER BY rule.place
    LOOP
        flawed := format(one.flaw, unprintable);
        IF one.mend IS NOT NULL THEN
            EXECUTE format('UPDATE %I SET %s WHERE %s', one.relation, format(one.mend, unprintable), flawed);
        END IF;
        EXECUTE format(
            'ALTER TABLE %I ADD CONSTRAINT %I CHECK (CASE WHEN %s THEN kombu_refuse(%L) ELSE true END) NOT VALID',
            one.relation, one.relation || '_' || one.what, flawed, one.relation || ': ' || one.reason
        );
    END LOOP;
END
$limits$;

-- Whoever may only publish chooses no id: forty uncommitted rows with the next ids would let everybody's publish wait for
-- that transaction.
ALTER TABLE kombu_queue ALTER COLUMN id SET DEFAULT nextval('queue_id_sequence');
ALTER TABLE kombu_message
    ALTER COLUMN id SET DEFAULT nextval('message_id_sequence'),
    ALTER COLUMN visible SET DEFAULT true,
    ALTER COLUMN version SET DEFAULT 1,
    -- Of a message within somebody's transaction the time when it was written, not when that transaction began.
    ALTER COLUMN enqueued_at SET DEFAULT clock_timestamp();

-- Moves the sequence of a table's ids beyond the greatest of them: logical replication copies rows and no sequences, and a
-- restore of single tables does as little. A table's owner alone may do that, and a publisher may not even see the ids,
-- so it is the owner's work, whoever asks for it: it gives nothing away, and where nothing lags it does nothing. Without a
-- lock, which anybody might hold: of two at once the later may set the sequence back by a moment, and its next id be asked
-- for again. Ids from 2^62 on are nobody's count.
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
