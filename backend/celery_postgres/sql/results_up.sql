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
