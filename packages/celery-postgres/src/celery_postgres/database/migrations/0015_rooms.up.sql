-- The limits of many keys in one call: a claim asks for 64 keys, and a call for each of them cost as much as the claim.

-- As `kombu_room`, for each key of `asked_keys` and its share, in their order. VOLATILE for the same reason: the second
-- statement counts what others have committed before the first has taken the locks.
-- step: create the function kombu_rooms
CREATE OR REPLACE FUNCTION kombu_rooms(
    asked_queue bigint, asked_keys bigint[], shares bigint[]
) RETURNS TABLE (places bigint, opens_in double precision, interval_s double precision)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    most integer[];  -- their concurrency
    throttled boolean[];
    locked boolean[];
BEGIN
    IF NOT EXISTS (
        SELECT FROM kombu_limit AS found
        WHERE found.queue_id = asked_queue AND found.flow_key IS DISTINCT FROM 0
          AND (found.max_running IS NOT NULL OR found.per_second IS NOT NULL)
    ) THEN
        RETURN QUERY SELECT share, NULL::double precision, NULL::double precision FROM unnest(shares) AS share;
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
    RETURN QUERY
    SELECT
        CASE
            WHEN NOT asked.locked THEN 0
            WHEN asked.throttled THEN room.places
            WHEN asked.most IS NULL THEN asked.share
            ELSE least(asked.share, asked.most - (
                SELECT count(*) FROM (
                    SELECT FROM kombu_message AS running
                    WHERE running.queue_id = asked_queue AND running.flow_key = asked.flow_key
                      AND NOT running.visible AND running.flow_key IS NOT NULL
                    LIMIT asked.most
                ) AS counted
            ))
        END,
        CASE WHEN NOT asked.locked THEN 0.02 ELSE room.opens_in END,
        room.interval_s
    FROM unnest(asked_keys, shares, most, throttled, locked) WITH ORDINALITY
        AS asked (flow_key, share, most, throttled, locked, number)
    LEFT JOIN LATERAL (
        SELECT one.*
        FROM kombu_room(asked_queue, asked.flow_key, asked.share) AS one
        WHERE asked.throttled AND asked.locked
        OFFSET 0  -- or it is called for the others too
    ) AS room ON true
    ORDER BY asked.number;
END
$$;
