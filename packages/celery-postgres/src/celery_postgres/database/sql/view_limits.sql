-- Limits of fair queues as the console shows them. Each statement reads a bounded number of rows of every table that grows.

-- name: view_limits
-- The limits of whole queues (their key is empty) and of each key (`*`), by queue: of all fair queues, or of one.
-- takes: queue text, queues integer, running_cap integer, cap integer
SELECT
    -- include: limit_columns
FROM (
    SELECT one.id FROM kombu_queue AS one
    WHERE one.fair AND (%(queue)s IS NULL OR one.name = %(queue)s)
    ORDER BY one.name
    LIMIT %(queues)s
) AS fair
JOIN kombu_limit AS found ON found.queue_id = fair.id AND found.key IN ('', '*')
JOIN kombu_queue AS queue ON queue.id = found.queue_id
ORDER BY queue.name, found.key

-- name: view_limits_of_keys
-- The limits of single keys, by queue and key, after a place in that order.
-- takes: queue text, after_queue bigint, after_key text, running_cap integer, cap integer, limit integer
SELECT
    -- include: limit_columns
FROM (
    SELECT one.* FROM kombu_limit AS one
    WHERE (one.queue_id, one.key) > (%(after_queue)s, %(after_key)s)
      AND one.queue_id >= coalesce(
          (SELECT asked.id FROM kombu_queue AS asked WHERE asked.name = %(queue)s), -9223372036854775808)
      AND one.queue_id <= coalesce(
          (SELECT asked.id FROM kombu_queue AS asked WHERE asked.name = %(queue)s), 9223372036854775807)
      AND one.key NOT IN ('', '*')
    ORDER BY one.queue_id, one.key
    LIMIT %(limit)s
) AS found
JOIN kombu_queue AS queue ON queue.id = found.queue_id
ORDER BY found.queue_id, found.key

-- name: view_busy_keys
-- The keys with the most claimed messages, of the first `scanned` claimed ones of each of `queues` fair queues, with what
-- holds for each of them. A key is known by its hash; by its text too where that is the tenant of its messages, or one of them has it.
-- takes: queue text, queues integer, scanned integer, cap integer, limit integer
SELECT
    fair.name, CASE WHEN hashtextextended(busy.tenant, 0) = busy.flow_key THEN busy.tenant ELSE (
        SELECT one.key
        FROM (
            SELECT
                -- include: key_in_payload
                AS key
            FROM kombu_message AS message
            WHERE message.queue_id = fair.id AND message.flow_key = busy.flow_key AND NOT message.visible
              AND message.flow_key IS NOT NULL
            LIMIT 1
        ) AS one
        WHERE hashtextextended(one.key, 0) = busy.flow_key
    ) END,
    lpad(to_hex(busy.flow_key), 16, '0'), own.max_running, own.per_second, own.burst, own.refuse, busy.running,
    (
        SELECT count(*) FROM (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = fair.id AND message.flow_key = busy.flow_key AND message.visible
              AND message.flow_key IS NOT NULL AND message.failures = 0
            LIMIT %(cap)s
        ) AS part
    ), (
        SELECT greatest(extract(epoch FROM throttle.free_at - now()) - (own.burst - 1) / own.per_second, 0)::float
        FROM kombu_throttle AS throttle
        WHERE throttle.queue_id = fair.id AND throttle.flow_key = busy.flow_key AND own.per_second > 0
          AND throttle.free_at > now() + (own.burst - 1) / own.per_second * interval '1 second'
    )
FROM (
    SELECT one.id, one.name FROM kombu_queue AS one
    WHERE one.fair AND (%(queue)s IS NULL OR one.name = %(queue)s)
    ORDER BY one.name
    LIMIT %(queues)s
) AS fair
CROSS JOIN LATERAL (
    SELECT claimed.flow_key, count(*) AS running, min(claimed.tenant_id::text) AS tenant
    FROM (
        SELECT message.flow_key, message.tenant_id FROM kombu_message AS message
        WHERE message.queue_id = fair.id AND NOT message.visible AND message.flow_key IS NOT NULL
        LIMIT %(scanned)s
    ) AS claimed
    GROUP BY claimed.flow_key
    ORDER BY count(*) DESC, claimed.flow_key
    LIMIT %(limit)s
) AS busy
CROSS JOIN LATERAL kombu_limit_of(fair.id, busy.flow_key) AS own
ORDER BY busy.running DESC, fair.name
LIMIT %(limit)s

-- name: view_keys_at_limit
-- Keys whose next message has waited for `waited_s` seconds while as many run as their limit allows, or while their rate allows
-- no other: of the first `scanned` claimed messages and of as many throttles of each of `queues` fair queues that have limits.
-- The one that has waited the longest comes first. A key is known by its hash; by its text too where that is the tenant of
-- its message. A limit of none is somebody's wish, and no key is at it.
-- takes: waited_s float, queues integer, scanned integer, cap integer, limit integer
WITH fair AS MATERIALIZED (
    SELECT one.id, one.name FROM kombu_queue AS one
    WHERE one.fair AND EXISTS (SELECT FROM kombu_limit AS known WHERE known.queue_id = one.id)
    ORDER BY one.name
    LIMIT %(queues)s
), used AS MATERIALIZED (
    SELECT claimed.queue_id, claimed.flow_key, count(*) AS running
    FROM fair
    CROSS JOIN LATERAL (
        SELECT message.queue_id, message.flow_key FROM kombu_message AS message
        WHERE message.queue_id = fair.id AND NOT message.visible AND message.flow_key IS NOT NULL
        LIMIT %(scanned)s
    ) AS claimed
    GROUP BY claimed.queue_id, claimed.flow_key
), closed AS MATERIALIZED (
    SELECT known.queue_id, known.flow_key, known.free_at
    FROM fair
    CROSS JOIN LATERAL (
        SELECT throttle.queue_id, throttle.flow_key, throttle.free_at FROM kombu_throttle AS throttle
        WHERE throttle.queue_id = fair.id
        LIMIT %(scanned)s
    ) AS known
    WHERE known.free_at > now() AND known.flow_key <> 0
), held AS MATERIALIZED (
    SELECT queue_id, flow_key, own.max_running, own.per_second, coalesce(used.running, 0) AS running
    FROM used
    FULL JOIN closed USING (queue_id, flow_key)
    CROSS JOIN LATERAL kombu_limit_of(queue_id, flow_key) AS own
    WHERE own.max_running > 0 AND used.running >= own.max_running
       OR own.per_second > 0 AND NOT own.refuse
          AND closed.free_at > now() + (own.burst - 1) / own.per_second * interval '1 second'
)
SELECT fair.name, CASE
        WHEN hashtextextended(first.tenant_id::text, 0) = held.flow_key THEN first.tenant_id::text
        WHEN hashtextextended(first.key, 0) = held.flow_key THEN first.key
    END,
    lpad(to_hex(held.flow_key), 16, '0'), held.max_running, held.per_second, held.running, (
        SELECT count(*) FROM (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = held.queue_id AND message.flow_key = held.flow_key AND message.visible
              AND message.flow_key IS NOT NULL AND message.failures = 0
            LIMIT %(cap)s
        ) AS part
    ), extract(epoch FROM now() - first.available_at)::float
FROM held
JOIN fair ON fair.id = held.queue_id
CROSS JOIN LATERAL (
    SELECT message.tenant_id, message.available_at,
        -- include: key_in_payload
        AS key
    FROM kombu_message AS message
    WHERE message.queue_id = held.queue_id AND message.flow_key = held.flow_key AND message.visible
      AND message.flow_key IS NOT NULL AND message.failures = 0
    ORDER BY 9 - message.priority, message.id + 0
    LIMIT 1
) AS first
WHERE first.available_at < now() - %(waited_s)s * interval '1 second'
ORDER BY first.available_at
LIMIT %(limit)s

-- name: view_fair_queues
-- takes: queues integer
SELECT queue.name FROM kombu_queue AS queue WHERE queue.fair ORDER BY queue.name LIMIT %(queues)s

-- name: view_paused
-- Those of these queues that are paused.
-- takes: names text[]
SELECT queue.name FROM kombu_queue AS queue WHERE queue.name = ANY (%(names)s) AND queue.paused

-- name: view_oldest_of_key
-- For how many seconds the message of a key that is next in each fair queue has been waiting.
-- takes: key text, queues integer
SELECT fair.name, extract(epoch FROM now() - first.available_at)::float
FROM (SELECT one.id, one.name FROM kombu_queue AS one WHERE one.fair ORDER BY one.name LIMIT %(queues)s) AS fair
CROSS JOIN LATERAL (
    SELECT message.available_at FROM kombu_message AS message
    WHERE message.queue_id = fair.id AND message.flow_key = hashtextextended(%(key)s, 0) AND message.visible
      AND message.flow_key IS NOT NULL AND message.failures = 0
    ORDER BY 9 - message.priority, message.id + 0
    LIMIT 1
) AS first

-- name: view_waits_of_tenant
-- How long the last tasks of a tenant that have ended waited before they began, by queue: the median, and of how many.
-- `since` is in UTC.
-- takes: tenant uuid, since timestamp, scanned integer, limit integer
SELECT ended.queue, (percentile_cont(0.5) WITHIN GROUP (ORDER BY ended.waited))::float, count(*)
FROM (
    SELECT meta.queue, greatest(extract(epoch FROM meta.started_at - greatest(meta.published_at, meta.due_at)), 0) AS waited
    FROM celery_taskmeta AS meta
    WHERE meta.tenant_id = %(tenant)s AND meta.date_done >= %(since)s
    ORDER BY meta.date_done DESC
    LIMIT %(scanned)s
) AS ended
WHERE ended.waited IS NOT NULL AND ended.queue IS NOT NULL
GROUP BY ended.queue
ORDER BY count(*) DESC, ended.queue
LIMIT %(limit)s
