-- Fair queues: which keys have ready messages, and what becomes of scheduled ones.
--
-- A key is known by its hash, `flow_key`. Whose turn it is each consumer decides for itself, from the keys that it finds
-- here (decision 0061).

-- name: ready_keys
-- The keys of a fair queue that have ready messages, after a key and a priority (as 9 - priority), each with the lowest
-- id and its weight. It steps from key to key in the index, which costs 35 us each, however many messages a key has.
-- takes: queue bigint, after_key bigint, after_low integer, limit bigint
WITH RECURSIVE found AS (
    (
        SELECT message.flow_key, 9 - message.priority AS low, message.id, 1 AS number
        FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s
          AND (message.flow_key, 9 - message.priority) > (%(after_key)s, %(after_low)s)
          AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key, 9 - message.priority, message.id + 0
        LIMIT 1
    )
    UNION ALL
    SELECT following.flow_key, following.low, following.id, found.number + 1
    FROM found
    CROSS JOIN LATERAL (
        SELECT message.flow_key, 9 - message.priority AS low, message.id
        FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s
          AND (message.flow_key, 9 - message.priority) > (found.flow_key, found.low)
          AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key, 9 - message.priority, message.id + 0
        LIMIT 1
    ) AS following
    WHERE found.number < %(limit)s
)
SELECT found.flow_key, 9 - found.low, found.id, coalesce(own.weight, each_key.weight, 1)
FROM found
LEFT JOIN kombu_limit AS own ON own.queue_id = %(queue)s AND own.flow_key = found.flow_key
LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = %(queue)s AND each_key.key = '*'

-- name: newest_keys
-- The same for the messages that came last: those with an id above `above`, and with one of the last `limit` ids. The
-- first row is the greatest of these ids, or `above`, and a queue that is null.
-- takes: queues bigint[], above bigint, limit bigint
WITH newest AS MATERIALIZED (
    SELECT coalesce((
        SELECT message.id FROM kombu_message AS message WHERE message.id > %(above)s ORDER BY message.id DESC LIMIT 1
    ), %(above)s) AS id
)
SELECT NULL AS queue_id, NULL AS flow_key, NULL AS priority, newest.id, NULL AS weight FROM newest
UNION ALL
SELECT found.queue_id, found.flow_key, found.priority, found.id, coalesce(own.weight, each_key.weight, 1)
FROM (
    SELECT message.queue_id, message.flow_key, message.priority, min(message.id) AS id
    FROM kombu_message AS message
    WHERE message.id > greatest(%(above)s, (SELECT newest.id FROM newest) - %(limit)s)
      AND message.queue_id = ANY (%(queues)s)
      AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
    GROUP BY message.queue_id, message.flow_key, message.priority
) AS found
LEFT JOIN kombu_limit AS own ON own.queue_id = found.queue_id AND own.flow_key = found.flow_key
LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = found.queue_id AND each_key.key = '*'

-- name: promote_due
-- Make ready what is due in fair queues: a scheduled message takes its turn like any other. No lock is waited for.
-- takes: queues bigint[], limit bigint
WITH due AS MATERIALIZED (
    SELECT message.id
    FROM unnest(%(queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.available_at IS NOT NULL
          AND candidate.flow_key IS NULL AND candidate.flow_later IS NOT NULL AND candidate.available_at <= now()
        ORDER BY candidate.available_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT %(limit)s
), promoted AS (
    UPDATE kombu_message AS message SET flow_key = message.flow_later, flow_later = NULL
    WHERE message.id = ANY (ARRAY(SELECT due.id FROM due))
    RETURNING message.id
)
SELECT set_config('synchronous_commit', 'off', true), (SELECT count(*) FROM promoted)
