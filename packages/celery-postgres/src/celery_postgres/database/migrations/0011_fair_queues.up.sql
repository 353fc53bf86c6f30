-- Fair queues: keys take turns, and a key's limits hold in all workers together. Every column has a default or may be
-- null, so older publishers and workers go on.

-- step: add fair to kombu_queue
-- unless: EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('kombu_queue') AND NOT attisdropped
--   AND attname = 'fair')
ALTER TABLE kombu_queue ADD COLUMN IF NOT EXISTS fair boolean NOT NULL DEFAULT false;

-- In a fair queue each message has a time, and the hash of its key: in `flow_key` once it may be claimed, in `flow_later`
-- while it is scheduled. Both are null in other queues, and in what older publishers send to fair ones.
-- step: add the keys to kombu_message
-- unless: 2 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_message') AND NOT attisdropped
--   AND attname IN ('flow_key', 'flow_later'))
ALTER TABLE kombu_message ADD COLUMN IF NOT EXISTS flow_key bigint, ADD COLUMN IF NOT EXISTS flow_later bigint;

-- The limits of a key, by its hash too; or, with the key `*` and no hash, of each key of the queue that has none of its own.
-- step: create kombu_limit
CREATE TABLE IF NOT EXISTS kombu_limit (
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    key text NOT NULL CHECK (CASE WHEN char_length(key) > 200
        THEN kombu_refuse('kombu_limit: a key has at most 200 characters') ELSE true END),
    flow_key bigint,
    weight integer CHECK (CASE WHEN weight NOT BETWEEN 1 AND 100
        THEN kombu_refuse('kombu_limit: a weight is 1 to 100') ELSE true END),
    max_running integer CHECK (CASE WHEN max_running < 0
        THEN kombu_refuse('kombu_limit: a concurrency is 0 or more') ELSE true END),
    per_second double precision CHECK (CASE WHEN per_second NOT BETWEEN 0 AND 1e6
        THEN kombu_refuse('kombu_limit: a rate is 0 to 1000000 per second') ELSE true END),
    burst integer NOT NULL DEFAULT 1 CHECK (CASE WHEN burst < 1
        THEN kombu_refuse('kombu_limit: a burst is 1 or more') ELSE true END),
    refuse boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_id, key)
);
CREATE UNIQUE INDEX IF NOT EXISTS ix_kombu_limit_hash ON kombu_limit (queue_id, flow_key) WHERE flow_key IS NOT NULL;

-- When all places of a key's throttle are free (GCRA's theoretical arrival time). A row for each key that was throttled;
-- maintenance removes it when that time is over.
-- step: create kombu_throttle
CREATE TABLE IF NOT EXISTS kombu_throttle (
    queue_id bigint NOT NULL REFERENCES kombu_queue (id) ON DELETE CASCADE,
    flow_key bigint NOT NULL,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (queue_id, flow_key)
) WITH (fillfactor = 50);

-- How many messages of a key may be claimed now, and no more than `share`. VOLATILE, so that each of its statements sees
-- what others committed before the lock was taken, and what this transaction's own statement has deleted: counting in the
-- snapshot of the claim let 9 and 11 run where 5 were allowed. Without the lock nothing of the key is claimed.
-- step: create the function kombu_room
CREATE OR REPLACE FUNCTION kombu_room(
    asked_queue bigint, asked_key bigint, share bigint,
    OUT places bigint, OUT opens_in double precision, OUT interval_s double precision
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked kombu_limit;
    busy double precision;  -- seconds until all places of the throttle are free
BEGIN
    places := share;
    SELECT * INTO asked FROM kombu_limit AS found
    WHERE found.queue_id = asked_queue AND (found.flow_key = asked_key OR found.key = '*')
    ORDER BY found.flow_key NULLS LAST
    LIMIT 1;
    IF asked.max_running IS NULL AND asked.per_second IS NULL THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashint8extended(asked_key, asked_queue)) THEN
        places := 0;
        opens_in := 0.02;
        RETURN;
    END IF;
    IF asked.max_running IS NOT NULL THEN
        places := least(places, asked.max_running - (
            SELECT count(*) FROM (
                SELECT FROM kombu_message AS running
                WHERE running.queue_id = asked_queue AND running.flow_key = asked_key
                  AND NOT running.visible AND running.flow_key IS NOT NULL
                LIMIT asked.max_running
            ) AS counted
        ));
    END IF;
    IF asked.per_second = 0 AND NOT asked.refuse THEN
        places := 0;
    ELSIF asked.per_second > 0 AND NOT asked.refuse THEN
        interval_s := 1 / asked.per_second;
        busy := coalesce(greatest(0, extract(epoch FROM (
            SELECT throttle.free_at FROM kombu_throttle AS throttle
            WHERE throttle.queue_id = asked_queue AND throttle.flow_key = asked_key
        ) - clock_timestamp())), 0);
        IF asked.burst - busy / interval_s < places THEN
            places := greatest(0, floor(asked.burst - busy / interval_s + 1e-6));  -- a millionth, for the rounding of times
            opens_in := greatest(0, busy - (asked.burst - places - 1) * interval_s);
        END IF;
    END IF;
END
$$;

-- Ready messages by key, each key's by priority. One that has failed before comes alone (ix_kombu_message_failed).
-- concurrently: ix_kombu_message_fair on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_fair ON kombu_message (queue_id, flow_key, (9 - priority), (id + 0))
    WHERE visible AND flow_key IS NOT NULL AND failures = 0;

-- What runs of a key is what is claimed of it.
-- concurrently: ix_kombu_message_running on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_running ON kombu_message (queue_id, flow_key)
    WHERE NOT visible AND flow_key IS NOT NULL;

-- Scheduled messages, those of fair queues too, without the ready ones of fair queues, which have a time as well.
-- concurrently: ix_kombu_message_later on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_later ON kombu_message (queue_id, available_at)
    WHERE visible AND available_at IS NOT NULL AND flow_key IS NULL;
