-- What runs of a key is counted from the oldest that can still run: while a transaction keeps dead rows, a count read the
-- entries of all that had run of the key since, 0.7 us each.

-- Replaces ix_kombu_message_running. What is claimed by stock Kombu has no time, and is always counted.
-- concurrently: ix_kombu_message_running_since on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_running_since
    ON kombu_message (queue_id, flow_key, coalesce(claimed_at, 'infinity'))
    WHERE NOT visible AND flow_key IS NOT NULL;

-- drop concurrently: ix_kombu_message_running
DROP INDEX CONCURRENTLY ix_kombu_message_running;

-- As the one without `since`, which older workers call: by key, a time (in seconds since 1970) before which nothing that
-- runs was claimed. Returns a later one as `oldest`, for the next call. It holds because a claim notes its time under the
-- lock of the key. A clock that is before `since` was set back, and then all is counted.
-- step: create the function kombu_rooms that counts since a time
CREATE OR REPLACE FUNCTION kombu_rooms(
    asked_queue bigint, asked_keys bigint[], shares bigint[], since double precision[]
) RETURNS TABLE (
    places bigint, opens_in double precision, interval_s double precision, oldest double precision
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    most integer[];  -- their concurrency
    throttled boolean[];
    locked boolean[];
    read_at timestamptz;
BEGIN
    IF NOT EXISTS (
        SELECT FROM kombu_limit AS found
        WHERE found.queue_id = asked_queue AND found.flow_key IS DISTINCT FROM 0
          AND (found.max_running IS NOT NULL OR found.per_second IS NOT NULL)
    ) THEN
        RETURN QUERY
        SELECT share, NULL::double precision, NULL::double precision, NULL::double precision FROM unnest(shares) AS share;
        RETURN;
    END IF;
    SELECT array_agg(asked.max_running), array_agg(asked.throttled), array_agg(
        asked.max_running IS NULL AND NOT asked.throttled
        OR pg_try_advisory_xact_lock(hashint8extended(asked.flow_key, asked_queue))
    )
    INTO most, throttled, locked
    FROM (
        SELECT given.flow_key, coalesce(own.max_running, each_key.max_running) AS max_running,
            CASE
                WHEN own.per_second IS NOT NULL THEN NOT own.refuse
                ELSE each_key.per_second IS NOT NULL AND NOT each_key.refuse
            END AS throttled
        FROM unnest(asked_keys) WITH ORDINALITY AS given (flow_key, number)
        LEFT JOIN kombu_limit AS own ON own.queue_id = asked_queue AND own.flow_key = given.flow_key
        LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = asked_queue AND each_key.key = '*'
        ORDER BY given.number
    ) AS asked;
    read_at := clock_timestamp();
    RETURN QUERY
    SELECT
        CASE
            WHEN NOT asked.locked THEN 0
            WHEN asked.throttled THEN room.places
            WHEN asked.most IS NULL THEN asked.share
            ELSE least(asked.share, asked.most - coalesce(running.count, 0))
        END,
        CASE WHEN NOT asked.locked THEN 0.02 ELSE room.opens_in END,
        room.interval_s,
        -- A second, for a clock that is set back and for a claim that took no lock because there was no limit yet.
        CASE WHEN running.count IS NOT NULL THEN extract(epoch FROM least(running.oldest, read_at))::double precision - 1 END
    FROM unnest(asked_keys, shares, since, most, throttled, locked) WITH ORDINALITY
        AS asked (flow_key, share, since, most, throttled, locked, number)
    LEFT JOIN LATERAL (
        SELECT count(*) AS count, min(counted.claimed_at) AS oldest
        FROM (
            SELECT coalesce(message.claimed_at, 'infinity') AS claimed_at
            FROM kombu_message AS message
            WHERE message.queue_id = asked_queue AND message.flow_key = asked.flow_key
              AND coalesce(message.claimed_at, 'infinity')
                  >= to_timestamp(CASE WHEN asked.since <= extract(epoch FROM read_at) THEN asked.since ELSE 0 END)
              AND NOT message.visible AND message.flow_key IS NOT NULL
            ORDER BY coalesce(message.claimed_at, 'infinity')
            LIMIT asked.most
        ) AS counted
        WHERE asked.locked AND NOT asked.throttled AND asked.most > 0
        HAVING asked.locked AND NOT asked.throttled AND asked.most > 0
    ) AS running ON true
    LEFT JOIN LATERAL (
        SELECT one.*
        FROM kombu_room(asked_queue, asked.flow_key, asked.share) AS one
        WHERE asked.throttled AND asked.locked
        OFFSET 0  -- or it is called for the others too
    ) AS room ON true
    ORDER BY asked.number;
END
$$;

-- Returns too whether the rate of the whole queue refuses, and not that of a key. Its callers keep the right to call it.
-- step: let kombu_admit name the scope of a refusal
DO $block$
DECLARE
    callers regrole[] := ARRAY(
        SELECT acl.grantee::regrole
        FROM (
            SELECT (aclexplode(p.proacl)).* FROM pg_proc AS p
            WHERE p.oid = to_regprocedure('kombu_admit(bigint[], text[])')
        ) AS acl
        WHERE acl.privilege_type = 'EXECUTE' AND acl.grantee <> 0
    );
    one regrole;
BEGIN
    DROP FUNCTION IF EXISTS kombu_admit(bigint[], text[]);
    EXECUTE format($create$
        CREATE FUNCTION kombu_admit(
            asked_queues bigint[], asked_keys text[],
            OUT refused integer, OUT opens_in double precision, OUT of_queue boolean
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
                    of_queue := one.flow_key = 0;
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
                    of_queue := one.flow_key = 0;
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
    FOREACH one IN ARRAY callers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION kombu_admit(bigint[], text[]) TO %s', one);
    END LOOP;
END
$block$;
