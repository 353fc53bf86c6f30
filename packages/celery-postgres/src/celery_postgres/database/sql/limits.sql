-- Limits of the keys of fair queues, as rows; and the messages of a key.
--
-- A limit is found by its queue and its key: `*` is each key, and an empty key the whole queue.

-- name: lock_queue
-- Until the transaction ends nothing else changes the limits of this queue, or whether it is fair. No row if there is no
-- such queue.
-- takes: queue text
SELECT queue.id, queue.fair FROM kombu_queue AS queue WHERE queue.name = %(queue)s FOR NO KEY UPDATE

-- name: set_limit
-- What is null stays as it is. A rate comes with its burst (1 by default) and with whether it refuses.
-- takes: queue bigint, key text, max_running integer, per_second float, burst integer, refuse boolean, weight integer
INSERT INTO kombu_limit AS found (queue_id, key, flow_key, max_running, per_second, burst, refuse, weight)
VALUES (
    %(queue)s, %(key)s,
    CASE %(key)s WHEN '*' THEN NULL WHEN '' THEN 0 ELSE hashtextextended(%(key)s, 0) END,
    %(max_running)s, %(per_second)s, coalesce(%(burst)s, 1), coalesce(%(refuse)s, false), %(weight)s
)
ON CONFLICT (queue_id, key) DO UPDATE
SET max_running = coalesce(excluded.max_running, found.max_running),
    per_second = coalesce(excluded.per_second, found.per_second),
    burst = CASE WHEN excluded.per_second IS NOT NULL OR %(burst)s IS NOT NULL THEN excluded.burst ELSE found.burst END,
    refuse = CASE WHEN %(refuse)s IS NOT NULL THEN excluded.refuse ELSE found.refuse END,
    weight = coalesce(excluded.weight, found.weight),
    changed_at = now()

-- name: note_refusals
-- Publishers ask first only where a limit of the queue refuses.
-- takes: queue bigint
UPDATE kombu_queue AS queue SET refuses = NOT queue.refuses
WHERE queue.id = %(queue)s AND queue.refuses <> EXISTS (
    SELECT FROM kombu_limit AS found
    WHERE found.queue_id = %(queue)s AND found.refuse AND found.per_second IS NOT NULL
)

-- name: remove_limit
-- takes: queue bigint, key text
DELETE FROM kombu_limit AS found WHERE found.queue_id = %(queue)s AND found.key = %(key)s RETURNING found.key

-- name: limits
-- repeatable
-- All limits, or those of one queue, with what runs and waits of their keys, counted up to `running_cap` and `cap`; a null
-- counts all. The limits of each key and of the whole queue count all keys. A key's hash is what metrics show. Last, for how
-- many seconds the throttle is closed, if it is.
-- takes: queue text, key text, running_cap integer, cap integer
SELECT
    queue.name, found.key, found.max_running, found.per_second, found.burst, found.refuse, found.weight, found.changed_at,
    CASE WHEN found.flow_key <> 0 THEN lpad(to_hex(found.flow_key), 16, '0') END,
    -- include: limit_use
FROM kombu_limit AS found
JOIN kombu_queue AS queue ON queue.id = found.queue_id
WHERE (%(queue)s IS NULL OR queue.name = %(queue)s) AND (%(key)s IS NULL OR found.key = %(key)s)
ORDER BY queue.name, found.flow_key <> 0, found.flow_key IS NULL, found.key

-- name: counts_running
-- repeatable
-- Whether a limit of the queue counts what runs; null if the queue has no limits.
-- takes: queue text
SELECT bool_or(coalesce(found.max_running > 0, false))
FROM kombu_limit AS found JOIN kombu_queue AS queue ON queue.id = found.queue_id
WHERE queue.name = %(queue)s AND (found.max_running IS NOT NULL OR found.per_second IS NOT NULL AND NOT found.refuse)

-- name: queues_that_count_running
-- repeatable
-- takes: queues bigint[]
SELECT queue.id, queue.name FROM kombu_queue AS queue
WHERE queue.id = ANY (%(queues)s)
  AND EXISTS (SELECT FROM kombu_limit AS found WHERE found.queue_id = queue.id AND found.max_running > 0)

-- name: key_status
-- repeatable
-- What holds for a key in those of these queues that are fair, what waits (without what was revoked) and runs of it, each up to `cap`, and
-- for how many seconds its rate is closed, if it is.
-- takes: queues text[], key text, cap integer
SELECT queue.name, own.max_running, own.per_second, own.burst, own.refuse, (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = queue.id AND message.flow_key = asked.flow_key AND message.visible
          AND message.flow_key IS NOT NULL AND message.failures = 0 AND NOT message.revoked
        LIMIT %(cap)s
    ) AS part
), (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = queue.id AND message.flow_key = asked.flow_key AND NOT message.visible
          AND message.flow_key IS NOT NULL
        LIMIT %(cap)s
    ) AS part
), (
    SELECT greatest(extract(epoch FROM throttle.free_at - now()) - (own.burst - 1) / own.per_second, 0)::float
    FROM kombu_throttle AS throttle
    WHERE throttle.queue_id = queue.id AND throttle.flow_key = asked.flow_key AND own.per_second > 0
      AND throttle.free_at > now() + (own.burst - 1) / own.per_second * interval '1 second'
)
FROM (SELECT hashtextextended(%(key)s, 0) AS flow_key) AS asked
CROSS JOIN kombu_queue AS queue
CROSS JOIN LATERAL kombu_limit_of(queue.id, asked.flow_key) AS own
WHERE queue.name = ANY (%(queues)s) AND queue.fair
ORDER BY queue.name

-- name: drop_idle_throttles
-- A throttle whose places are all free is as one that never was. No lock is waited for. Returns how many were removed.
-- takes: limit bigint
WITH idle AS MATERIALIZED (
    SELECT throttle.queue_id, throttle.flow_key
    FROM kombu_throttle AS throttle
    WHERE
        -- include: idle_throttle
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM kombu_throttle AS throttle
    USING idle
    WHERE throttle.queue_id = idle.queue_id AND throttle.flow_key = idle.flow_key
    RETURNING throttle.queue_id
)
SELECT count(*) FROM gone

-- name: admit
-- Take the places of messages in the rate limits that refuse, for all of them or for none: the queue's id, and a key, of
-- each. Returns the number (from 1) of one that is refused, or null, and the seconds until the same would be admitted, or
-- null. The commit is not waited for.
-- takes: queues bigint[], keys text[]
SELECT admitted.refused, admitted.opens_in, admitted.of_queue, set_config('synchronous_commit', 'off', true)
FROM kombu_admit(%(queues)s, %(keys)s) AS admitted

-- name: admit_within
-- The same in the transaction that publishes the messages, whose commit is waited for.
-- takes: queues bigint[], keys text[]
SELECT admitted.refused, admitted.opens_in, admitted.of_queue FROM kombu_admit(%(queues)s, %(keys)s) AS admitted

-- name: queues_that_refuse
-- repeatable
-- The ids of those of these queues one of whose limits refuses.
-- takes: queues text[]
SELECT queue.name, queue.id FROM kombu_queue AS queue WHERE queue.name = ANY (%(queues)s) AND queue.refuses

-- name: queues_by_fairness
-- repeatable
-- takes: queues text[], fair boolean
SELECT queue.name FROM kombu_queue AS queue
WHERE queue.name = ANY (%(queues)s) AND queue.fair = %(fair)s
ORDER BY queue.name

-- name: counts_of_key
-- repeatable
-- What waits, what is scheduled and what runs of a key.
-- takes: queue bigint, key text
SELECT (
    SELECT count(*) FROM kombu_message AS message
    WHERE message.queue_id = %(queue)s AND message.flow_key = hashtextextended(%(key)s, 0) AND message.visible
      AND message.flow_key IS NOT NULL AND message.failures = 0
) + (
    SELECT count(*) FROM kombu_message AS message
    WHERE message.queue_id = %(queue)s AND message.visible AND message.failures > 0
      AND message.flow_key = hashtextextended(%(key)s, 0)
), (
    SELECT count(*) FROM kombu_message AS message
    WHERE message.queue_id = %(queue)s AND message.visible AND message.available_at IS NOT NULL
      AND message.flow_key IS NULL AND message.flow_later = hashtextextended(%(key)s, 0)
), (
    SELECT count(*) FROM kombu_message AS message
    WHERE message.queue_id = %(queue)s AND message.flow_key = hashtextextended(%(key)s, 0) AND NOT message.visible
      AND message.flow_key IS NOT NULL
)

-- name: purge_key
-- repeatable
-- Delete at most `limit` waiting messages of a key: ready ones, those that have failed before, and scheduled ones. Returns
-- how many, and whether there may be more.
-- takes: queue bigint, key text, limit bigint
WITH doomed AS MATERIALIZED (
    SELECT waiting.id
    FROM (
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.flow_key = hashtextextended(%(key)s, 0) AND message.visible
          AND message.flow_key IS NOT NULL AND message.failures = 0
        UNION ALL
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.visible AND message.failures > 0
          AND message.flow_key = hashtextextended(%(key)s, 0)
        UNION ALL
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.visible AND message.available_at IS NOT NULL
          AND message.flow_key IS NULL AND message.flow_later = hashtextextended(%(key)s, 0)
    ) AS waiting
    LIMIT %(limit)s
), gone AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(SELECT doomed.id FROM doomed)) AND message.visible
    RETURNING message.id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM doomed) = %(limit)s

-- name: set_fair
-- takes: queue bigint, fair boolean
UPDATE kombu_queue AS queue SET fair = %(fair)s WHERE queue.id = %(queue)s AND queue.fair <> %(fair)s

-- name: any_in_order
-- repeatable
-- Whether a message of the queue waits or runs in the order of its key: one in the line of a key, or a scheduled one.
-- takes: queue bigint
SELECT
    -- include: any_in_order
FROM (SELECT %(queue)s AS id) AS queue

-- name: keyed_though_unfair
-- repeatable
-- The queues that are not fair and have messages with keys: a publisher had read the queue before it ceased to be fair, or
-- a declaration has ended it.
-- include: keyed_though_unfair

-- name: without_key
-- repeatable
-- A batch of the messages of a fair queue that have no key, by their ids: those that were there before it was fair, and
-- those of stock's and older releases' publishers. The id, the tenant, and the payload if a key, or a tenant that is no UUID,
-- may be in it.
-- takes: queue bigint, after bigint, limit bigint
SELECT message.id, message.tenant_id::text, CASE
    WHEN position('"flow_key"' IN message.payload) > 0
        OR message.tenant_id IS NULL AND position('"tenant_id"' IN message.payload) > 0
    THEN message.payload
END
FROM kombu_message AS message
WHERE message.id > %(after)s AND message.queue_id = %(queue)s
  AND message.flow_key IS NULL AND message.flow_later IS NULL
ORDER BY message.id
LIMIT %(limit)s

-- name: give_keys
-- repeatable
-- As if these messages had been published to a fair queue. Claimed ones get theirs too, so that they count as running:
-- since now, because nobody looks for what was claimed before the latest count (`kombu_rooms`).
-- takes: queue bigint, ids bigint[], keys text[]
WITH given AS MATERIALIZED (
    -- Locked before any time is read: a row that is waited for must not make the others' times old.
    SELECT locked.id, hashtextextended(one.key, 0) AS flow_key
    FROM unnest(%(ids)s, %(keys)s) AS one (id, key)
    CROSS JOIN LATERAL (
        SELECT message.id FROM kombu_message AS message WHERE message.id = one.id FOR NO KEY UPDATE
    ) AS locked
), changed AS (
    UPDATE kombu_message AS message
    SET flow_key = CASE WHEN (message.available_at > now() AND message.failures = 0) IS NOT TRUE THEN given.flow_key END,
        claimed_at = CASE WHEN message.claimed_at IS NOT NULL THEN clock_timestamp() END,
        flow_later = CASE WHEN message.available_at > now() AND message.failures = 0 THEN given.flow_key END,
        available_at = coalesce(message.available_at, now())
    FROM given
    WHERE message.id = ANY (%(ids)s) AND message.id = given.id AND message.queue_id = %(queue)s
      AND message.flow_key IS NULL AND message.flow_later IS NULL
    RETURNING message.id
)
SELECT count(*) FROM changed

-- name: take_keys
-- A batch of the messages of a queue that is no longer fair lose their keys. Returns how many.
-- takes: queue bigint, limit bigint
WITH keyed AS MATERIALIZED (
    SELECT one.id
    FROM (
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        UNION ALL
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.visible AND message.failures > 0 AND message.flow_key IS NOT NULL
        UNION ALL
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND message.visible AND message.available_at IS NOT NULL
          AND message.flow_key IS NULL AND message.flow_later IS NOT NULL
        UNION ALL
        SELECT message.id FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s AND NOT message.visible AND message.flow_key IS NOT NULL
    ) AS one
    LIMIT %(limit)s
), changed AS (
    UPDATE kombu_message AS message
    SET flow_key = NULL, flow_later = NULL,
        available_at = CASE WHEN message.failures > 0 OR message.flow_later IS NOT NULL THEN message.available_at END
    WHERE message.id = ANY (ARRAY(SELECT keyed.id FROM keyed))
    RETURNING message.id
)
SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM keyed) = %(limit)s
