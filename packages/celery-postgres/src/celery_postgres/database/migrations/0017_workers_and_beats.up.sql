-- What workers and beats report of themselves. Every column has a default or may be null, so older workers and beats go on:
-- they report nothing.

-- With each heartbeat: the worker's name, pool, slots and version of the application, how many tasks run in it, and the ones
-- that run the longest (`[{"id": …, "task": …, "for_s": …}]`, as of `beat_at`). `draining`: it ends once they have ended, and
-- so it shall if an operator writes it.
-- step: add what workers report to kombu_consumer
-- unless: 8 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_consumer') AND NOT attisdropped
--   AND attname IN ('name', 'pool', 'slots', 'app_version', 'beat_at', 'busy', 'running', 'draining'))
ALTER TABLE kombu_consumer
    ADD COLUMN IF NOT EXISTS name text,
    ADD COLUMN IF NOT EXISTS pool text,
    ADD COLUMN IF NOT EXISTS slots integer,
    ADD COLUMN IF NOT EXISTS app_version text,
    ADD COLUMN IF NOT EXISTS beat_at timestamptz,
    ADD COLUMN IF NOT EXISTS busy integer,
    ADD COLUMN IF NOT EXISTS running jsonb,
    ADD COLUMN IF NOT EXISTS draining boolean NOT NULL DEFAULT false;

-- The same of a worker that others found dead.
-- step: add what it reported to kombu_lost_consumer
-- unless: 5 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_lost_consumer') AND NOT attisdropped
--   AND attname IN ('name', 'pool', 'slots', 'app_version', 'queues'))
ALTER TABLE kombu_lost_consumer
    ADD COLUMN IF NOT EXISTS name text,
    ADD COLUMN IF NOT EXISTS pool text,
    ADD COLUMN IF NOT EXISTS slots integer,
    ADD COLUMN IF NOT EXISTS app_version text,
    ADD COLUMN IF NOT EXISTS queues text[];

-- What an entry of the schedule sends and when, as the beat that read it last has it. A disabled entry is not sent. After it
-- is enabled its next run counts from `counts_from`. `requested_at`: an operator wants it sent once, now.
-- step: add what beats report to celery_beat_entry
-- unless: 8 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('celery_beat_entry') AND NOT attisdropped
--   AND attname IN ('task', 'schedule', 'next_run_at', 'enabled', 'counts_from', 'requested_at', 'sent_at', 'last_task_id'))
ALTER TABLE celery_beat_entry
    ADD COLUMN IF NOT EXISTS task text,
    ADD COLUMN IF NOT EXISTS schedule text,
    ADD COLUMN IF NOT EXISTS next_run_at timestamptz,
    ADD COLUMN IF NOT EXISTS enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS counts_from timestamptz,
    ADD COLUMN IF NOT EXISTS requested_at timestamptz,
    ADD COLUMN IF NOT EXISTS sent_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_task_id text;

-- The beats, each with the entries that it sends. One that has ended stays for a day.
-- step: create celery_beat
CREATE TABLE IF NOT EXISTS celery_beat (
    id bigint PRIMARY KEY,
    hostname text NOT NULL,
    pid integer NOT NULL,
    timezone text,
    entries text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz
);

-- Logins that run a beat write it; those that look at the schedule look here too.
-- step: grant celery_beat to the roles of beats and monitors
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT acl.grantee::regrole AS grantee, bool_or(acl.privilege_type = 'UPDATE') AS beats
        FROM (
            SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = 'celery_beat_entry'::regclass
            UNION ALL
            SELECT (aclexplode(a.attacl)).* FROM pg_attribute AS a WHERE a.attrelid = 'celery_beat_entry'::regclass
        ) AS acl
        WHERE acl.grantee <> 0 AND acl.privilege_type IN ('SELECT', 'UPDATE')
          AND acl.grantee <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'celery_beat_entry'::regclass)
        GROUP BY acl.grantee
    LOOP
        EXECUTE format(
            'GRANT %s ON celery_beat TO %s', CASE WHEN one.beats THEN 'SELECT, INSERT, UPDATE, DELETE' ELSE 'SELECT' END,
            one.grantee
        );
        IF NOT has_table_privilege(one.grantee::oid, 'celery_beat_entry', 'SELECT') THEN  -- it may read some columns
            EXECUTE format(
                'GRANT SELECT (task, schedule, next_run_at, enabled, counts_from, requested_at, sent_at, last_task_id)'
                ' ON celery_beat_entry TO %s', one.grantee
            );
        END IF;
    END LOOP;
END
$$;
