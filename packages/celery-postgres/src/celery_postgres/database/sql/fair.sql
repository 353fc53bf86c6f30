-- Fair queues: which keys have ready messages, and what becomes of scheduled ones.
--
-- A key is known by its hash, `flow_key`. Whose turn it is each consumer decides for itself, from the keys that it finds
-- here (decision 0061).

-- name: ready_keys
-- The keys of a fair queue that have ready messages, after a key and a priority (as 9 - priority), each with the lowest
-- id, its weight, and whether that message is in order. It steps from key to key in the index, which costs 35 us each, however many messages a key has.
-- takes: queue bigint, after_key bigint, after_low integer, limit bigint
WITH RECURSIVE found AS (
    (
        SELECT message.flow_key, 9 - message.priority AS low, message.id, message.in_order, 1 AS number
        FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s
          AND (message.flow_key, 9 - message.priority) > (%(after_key)s, %(after_low)s)
          AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key, 9 - message.priority, message.id + 0
        LIMIT 1
    )
    UNION ALL
    SELECT following.flow_key, following.low, following.id, following.in_order, found.number + 1
    FROM found
    CROSS JOIN LATERAL (
        SELECT message.flow_key, 9 - message.priority AS low, message.id, message.in_order
        FROM kombu_message AS message
        WHERE message.queue_id = %(queue)s
          AND (message.flow_key, 9 - message.priority) > (found.flow_key, found.low)
          AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key, 9 - message.priority, message.id + 0
        LIMIT 1
    ) AS following
    WHERE found.number < %(limit)s
)
SELECT found.flow_key, 9 - found.low, found.id, coalesce(own.weight, each_key.weight, 1), found.in_order IS TRUE
FROM found
LEFT JOIN kombu_limit AS own ON own.queue_id = %(queue)s AND own.flow_key = found.flow_key
LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = %(queue)s AND each_key.key = '*'

-- name: look_for_keys
-- Make ready what is due, and return the keys of that and of what came last: of the messages with an id above `above`, and
-- with one of the last `newest` ids, each with its lowest id there. A scheduled message takes its turn like any other. The
-- first row has, with a queue that is null, the greatest of these ids, or `above`; and the queues in which a message with
-- a key waits that has failed before. No lock is waited for, nor is the commit.
-- `flow_key + 0` keeps it from reading all of ix_kombu_message_fair, as it did where the statistics had seen few keys;
-- `coalesce` as in `claim`.
-- takes: queues bigint[], above bigint, newest bigint, due bigint
WITH latest AS MATERIALIZED (
    SELECT coalesce((
        SELECT message.id FROM kombu_message AS message WHERE message.id > %(above)s ORDER BY message.id DESC LIMIT 1
    ), %(above)s) AS id
), due AS MATERIALIZED (
    SELECT message.id
    FROM unnest(%(queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.available_at IS NOT NULL
          AND candidate.flow_key IS NULL AND candidate.flow_later IS NOT NULL AND candidate.available_at <= now()
        ORDER BY candidate.available_at
        LIMIT %(due)s
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT %(due)s
), promoted AS (
    UPDATE kombu_message AS message SET flow_key = message.flow_later, flow_later = NULL
    WHERE message.id = ANY (ARRAY(SELECT due.id FROM due))
    RETURNING message.queue_id, message.flow_key, message.priority, message.id, message.in_order
), found AS (
    SELECT message.queue_id, message.flow_key, message.priority, min(message.id) AS id, bool_or(message.in_order) AS in_order,
        true AS came
    FROM kombu_message AS message
    WHERE message.id > greatest(%(above)s, (SELECT latest.id FROM latest) - %(newest)s)
      AND message.queue_id = ANY (%(queues)s)
      AND message.visible AND message.flow_key + 0 IS NOT NULL AND message.failures = 0
    GROUP BY message.queue_id, message.flow_key, message.priority
    UNION ALL
    SELECT promoted.queue_id, promoted.flow_key, promoted.priority, min(promoted.id), bool_or(promoted.in_order), false
    FROM promoted
    GROUP BY promoted.queue_id, promoted.flow_key, promoted.priority
)
SELECT NULL AS queue_id, NULL AS flow_key, NULL AS priority,
    CASE WHEN set_config('synchronous_commit', 'off', true) = 'off' THEN latest.id END AS id, NULL AS weight,
    NULL AS in_order, NULL AS came,
    ARRAY(
        SELECT asked.queue_id FROM unnest(%(queues)s) AS asked (queue_id)
        WHERE EXISTS (
            SELECT FROM kombu_message AS candidate
            WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures > 0
              AND coalesce(candidate.available_at, 'infinity') <= now() AND candidate.flow_key IS NOT NULL
            OFFSET 0
        )
    ) AS failed
FROM latest
UNION ALL
SELECT found.queue_id, found.flow_key, found.priority, found.id, coalesce(own.weight, each_key.weight, 1),
    found.in_order IS TRUE, found.came, NULL
FROM found
LEFT JOIN kombu_limit AS own ON own.queue_id = found.queue_id AND own.flow_key = found.flow_key
LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = found.queue_id AND each_key.key = '*'
