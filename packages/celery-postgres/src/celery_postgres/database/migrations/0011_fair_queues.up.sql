-- Fair queues: keys take turns, and a key's limits hold in all workers together. Every column has a default or may be
-- null, so older publishers and workers go on.

-- `refuses`: one of its limits refuses what is too much at publish, so publishers ask `kombu_admit` first.
-- step: add fair and refuses to kombu_queue
-- unless: 2 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_queue') AND NOT attisdropped
--   AND attname IN ('fair', 'refuses'))
ALTER TABLE kombu_queue
    ADD COLUMN IF NOT EXISTS fair boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS refuses boolean NOT NULL DEFAULT false;

-- In a fair queue each message has a time, and the hash of its key: in `flow_key` once it may be claimed, in `flow_later`
-- while it is scheduled. Both are null in other queues, and in what older publishers send to fair ones.
-- step: add the keys to kombu_message
-- unless: 2 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_message') AND NOT attisdropped
--   AND attname IN ('flow_key', 'flow_later'))
ALTER TABLE kombu_message ADD COLUMN IF NOT EXISTS flow_key bigint, ADD COLUMN IF NOT EXISTS flow_later bigint;

-- The limits of a key, by its hash too. With the key `*` and no hash, of each key of the queue, for what the key's own row
-- leaves open; with an empty key and the hash 0, of the whole queue. The rate, its burst and `refuse` belong together.
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
    per_second double precision CHECK (CASE WHEN per_second <> 0 AND per_second NOT BETWEEN 1e-5 AND 1e6
        THEN kombu_refuse('kombu_limit: a rate is 0, or 0.00001 to 1000000 per second') ELSE true END),
    burst integer NOT NULL DEFAULT 1 CHECK (CASE WHEN burst NOT BETWEEN 1 AND 1000000
        THEN kombu_refuse('kombu_limit: a burst is 1 to 1000000') ELSE true END),
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

-- The limits that hold for a key, or with the key 0 for the whole queue: one row, of nulls if there are none.
-- step: create the function kombu_limit_of
CREATE OR REPLACE FUNCTION kombu_limit_of(
    asked_queue bigint, asked_key bigint
) RETURNS TABLE (max_running integer, per_second double precision, burst integer, refuse boolean)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT
        coalesce(own.max_running, each_key.max_running),
        coalesce(own.per_second, each_key.per_second),
        CASE WHEN own.per_second IS NOT NULL THEN own.burst ELSE each_key.burst END,
        CASE WHEN own.per_second IS NOT NULL THEN own.refuse ELSE each_key.refuse END
    FROM (SELECT 1) AS one
    LEFT JOIN kombu_limit AS own ON own.queue_id = asked_queue AND own.flow_key = asked_key
    LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = asked_queue AND each_key.key = '*' AND asked_key <> 0
$$;

-- How many messages of a key, or with the key 0 of the whole queue, may be claimed now, and no more than `share`. VOLATILE,
-- so that each of its statements sees what others committed before the lock was taken, and what this transaction's own
-- statement has deleted: counting in the snapshot of the claim let 9 and 11 run where 5 were allowed. Without the lock
-- nothing is claimed.
-- step: create the function kombu_room
CREATE OR REPLACE FUNCTION kombu_room(
    asked_queue bigint, asked_key bigint, share bigint,
    OUT places bigint, OUT opens_in double precision, OUT interval_s double precision
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked record;
    busy double precision;  -- seconds until all places of the throttle are free
BEGIN
    places := share;
    SELECT * INTO asked FROM kombu_limit_of(asked_queue, asked_key);
    IF asked.refuse THEN  -- at publish
        asked.per_second := NULL;
    END IF;
    IF asked.max_running IS NULL AND asked.per_second IS NULL THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashint8extended(asked_key, asked_queue)) THEN
        places := 0;
        opens_in := 0.02;
        RETURN;
    END IF;
    IF asked.max_running IS NOT NULL AND asked_key = 0 THEN
        places := least(places, asked.max_running - (
            SELECT count(*) FROM (
                SELECT FROM kombu_message AS running
                WHERE running.queue_id = asked_queue AND NOT running.visible AND running.flow_key IS NOT NULL
                LIMIT asked.max_running
            ) AS counted
        ));
    ELSIF asked.max_running IS NOT NULL THEN
        places := least(places, asked.max_running - (
            SELECT count(*) FROM (
                SELECT FROM kombu_message AS running
                WHERE running.queue_id = asked_queue AND running.flow_key = asked_key
                  AND NOT running.visible AND running.flow_key IS NOT NULL
                LIMIT asked.max_running
            ) AS counted
        ));
    END IF;
    IF asked.per_second = 0 THEN
        places := 0;
    ELSIF asked.per_second > 0 THEN
        interval_s := 1 / asked.per_second;
        busy := coalesce(greatest(0, extract(epoch FROM (
            SELECT throttle.free_at FROM kombu_throttle AS throttle
            WHERE throttle.queue_id = asked_queue AND throttle.flow_key = asked_key
        ) - clock_timestamp())), 0);
        IF busy > asked.burst * interval_s + 0.001 THEN  -- the rate was raised since
            busy := asked.burst * interval_s;
            UPDATE kombu_throttle AS throttle SET free_at = clock_timestamp() + busy * interval '1 second'
            WHERE throttle.queue_id = asked_queue AND throttle.flow_key = asked_key;
        END IF;
        IF asked.burst - busy / interval_s < places THEN
            places := greatest(0, floor(asked.burst - busy / interval_s + 1e-6));  -- a millionth, for the rounding of times
            opens_in := greatest(0, busy - (asked.burst - places - 1) * interval_s);
        END IF;
    END IF;
END
$$;

-- Before messages are published to queues that refuse: takes their places in the rate limits of their keys and of the
-- queues, for all of them or for none. Returns the number (from 1) of one that is refused, and the seconds after which the
-- same would be admitted, null if never. Commits at once, so that no publisher waits for another's transaction. It runs
-- with the rights of its owner: a publisher may change no row.
-- step: create the function kombu_admit
DO $block$
BEGIN
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION kombu_admit(
            asked_queues bigint[], asked_keys text[], OUT refused integer, OUT opens_in double precision
        ) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = %I, pg_temp AS $function$
        DECLARE
            one record;
            most double precision;  -- seconds that the places of the whole burst last
            taken double precision;  -- seconds that these places last
            charged jsonb[] := '{}';
            undone jsonb;
        BEGIN
            FOR one IN
                SELECT asked.queue_id, asked.flow_key, count(*) AS places, min(asked.number)::integer AS number, rate.*
                FROM (
                    SELECT given.queue_id, hashtextextended(given.key, 0) AS flow_key, given.number
                    FROM unnest(asked_queues, asked_keys) WITH ORDINALITY AS given (queue_id, key, number)
                    UNION ALL
                    SELECT given.queue_id, 0, given.number
                    FROM unnest(asked_queues) WITH ORDINALITY AS given (queue_id, number)
                ) AS asked
                CROSS JOIN kombu_limit_of(asked.queue_id, asked.flow_key) AS rate
                WHERE rate.refuse AND rate.per_second IS NOT NULL
                GROUP BY asked.queue_id, asked.flow_key, rate.max_running, rate.per_second, rate.burst, rate.refuse
                ORDER BY asked.queue_id, asked.flow_key  -- so that two publishers never wait for each other
            LOOP
                IF one.per_second = 0 OR one.places > one.burst THEN
                    refused := one.number;
                    EXIT;
                END IF;
                most := one.burst / one.per_second;
                taken := one.places / one.per_second;
                INSERT INTO kombu_throttle AS throttle (queue_id, flow_key, free_at)
                VALUES (one.queue_id, one.flow_key, clock_timestamp() + taken * interval '1 second')
                ON CONFLICT (queue_id, flow_key) DO UPDATE
                SET free_at = greatest(throttle.free_at, clock_timestamp()) + taken * interval '1 second'
                WHERE throttle.free_at <= clock_timestamp() + (most - taken + 1e-6) * interval '1 second';
                IF NOT FOUND THEN
                    UPDATE kombu_throttle AS throttle  -- if the rate was raised since
                    SET free_at = least(throttle.free_at, clock_timestamp() + most * interval '1 second')
                    WHERE throttle.queue_id = one.queue_id AND throttle.flow_key = one.flow_key
                    RETURNING extract(epoch FROM throttle.free_at - clock_timestamp()) - (most - taken) INTO opens_in;
                    opens_in := greatest(opens_in, 0);
                    refused := one.number;
                    EXIT;
                END IF;
                charged := charged || jsonb_build_object('queue', one.queue_id, 'key', one.flow_key, 'taken', taken);
            END LOOP;
            IF refused IS NOT NULL THEN
                FOREACH undone IN ARRAY charged LOOP
                    UPDATE kombu_throttle AS throttle
                    SET free_at = throttle.free_at - (undone ->> 'taken')::double precision * interval '1 second'
                    WHERE throttle.queue_id = (undone ->> 'queue')::bigint
                      AND throttle.flow_key = (undone ->> 'key')::bigint;
                END LOOP;
            END IF;
        END
        $function$
    $create$, current_schema());
    REVOKE ALL ON FUNCTION kombu_admit(bigint[], text[]) FROM PUBLIC;
END
$block$;

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
