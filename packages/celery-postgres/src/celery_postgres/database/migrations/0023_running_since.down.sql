-- step: let kombu_admit return what it did
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
    FOREACH one IN ARRAY callers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION kombu_admit(bigint[], text[]) TO %s', one);
    END LOOP;
END
$block$;

-- step: drop the function kombu_rooms that counts since a time
DROP FUNCTION IF EXISTS kombu_rooms(bigint, bigint[], bigint[], double precision[]);

-- concurrently: ix_kombu_message_running on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_running ON kombu_message (queue_id, flow_key)
    WHERE NOT visible AND flow_key IS NOT NULL;

-- drop concurrently: ix_kombu_message_running_since
DROP INDEX CONCURRENTLY ix_kombu_message_running_since;
