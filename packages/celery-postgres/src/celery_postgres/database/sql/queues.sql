-- Queues and bindings, which all processes share.

-- name: make_queue
-- repeatable
-- Make a queue. Returns its id; no row if a queue has that name. Processes that make one queue at the same time wait for one
-- another no longer than an insert takes, and none fails.
-- takes: queue text, auto_delete boolean, expires_ms bigint, message_ttl_ms bigint, fair boolean
INSERT INTO kombu_queue AS queue (name, auto_delete, expires_ms, message_ttl_ms, fair)
VALUES (%(queue)s, %(auto_delete)s, %(expires_ms)s, %(message_ttl_ms)s, coalesce(%(fair)s, false))
ON CONFLICT (name) DO NOTHING
RETURNING queue.id

-- name: change_queue
-- repeatable
-- A later declaration's expiry and TTL apply, and it counts as a use of a queue that expires or deletes itself. The queue
-- becomes fair if `fair` is true, and does not cease to be: that is `set_fair`, under the lock of the row. Returns its id; no
-- row if it is gone, or is so already, which writes nothing.
-- takes: queue text, auto_delete boolean, expires_ms bigint, message_ttl_ms bigint, fair boolean
UPDATE kombu_queue AS queue
SET auto_delete = %(auto_delete)s, expires_ms = %(expires_ms)s, message_ttl_ms = %(message_ttl_ms)s, used_at = now(),
    fair = queue.fair OR %(fair)s IS TRUE
WHERE queue.name = %(queue)s AND (
    %(auto_delete)s OR %(expires_ms)s IS NOT NULL OR queue.auto_delete OR queue.expires_ms IS NOT NULL
    OR queue.message_ttl_ms IS DISTINCT FROM %(message_ttl_ms)s OR %(fair)s AND NOT queue.fair
)
RETURNING queue.id

-- name: keeps_fair
-- Whether a queue has limits or ordered messages, which queues that are not fair do not keep.
-- takes: queue_id bigint
SELECT EXISTS (SELECT FROM kombu_limit AS found WHERE found.queue_id = queue.id) OR
    -- include: any_in_order
FROM kombu_queue AS queue
WHERE queue.id = %(queue_id)s

-- name: may_change_queues
-- repeatable
-- Whether the role may change a queue that is there: workers may, roles that only publish may not.
SELECT has_column_privilege('kombu_queue', 'fair', 'UPDATE')

-- name: find_queue
-- repeatable
-- takes: queue text
SELECT queue.id, queue.auto_delete, queue.expires_ms, queue.message_ttl_ms, queue.fair
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s

-- name: count_ready
-- repeatable
-- Messages that a consumer could claim now; as in AMQP, without those that are claimed, scheduled or past their TTL. No
-- row if there is no such queue, or if it is past its expiry and waits for its removal.
-- takes: queue text
SELECT (
    SELECT count(*)
    -- include: from_untimed
      AND (message.expires_at IS NULL OR message.expires_at > now())
) + (
    SELECT count(*)
    -- include: from_timed
      AND message.available_at <= now()
      AND (message.expires_at IS NULL OR message.expires_at > now())
)
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s AND NOT (
    queue.expires_ms IS NOT NULL
    AND queue.used_at < now() - least(greatest(queue.expires_ms, 0), 100000000000000) * interval '1 millisecond'
    AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
)

-- name: drop_if_abandoned
-- repeatable
-- Before a declaration: a queue past its expiry must not come back with its old messages. Returns its id.
-- takes: queue text
DELETE FROM kombu_queue AS queue
WHERE queue.name = %(queue)s
  AND queue.expires_ms IS NOT NULL
  AND queue.used_at < now() - least(greatest(queue.expires_ms, 0), 100000000000000) * interval '1 millisecond'
  AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
RETURNING queue.id

-- name: purge_queue
-- repeatable
-- Delete at most `limit` waiting messages, ready or scheduled; claimed messages stay. Returns how many, and whether there
-- may be more. Ready and scheduled messages are read apart, by the index that each kind has: asked for both together,
-- PostgreSQL reads the messages of all queues.
-- takes: queue text, limit bigint
WITH doomed AS MATERIALIZED (
    SELECT waiting.id
    FROM kombu_queue AS queue
    CROSS JOIN LATERAL (
        SELECT ready.id FROM kombu_message AS ready
        WHERE ready.queue_id = queue.id AND ready.visible AND ready.available_at IS NULL
        UNION ALL
        SELECT timed.id FROM kombu_message AS timed
        WHERE timed.queue_id = queue.id AND timed.visible AND timed.available_at IS NOT NULL
    ) AS waiting
    WHERE queue.name = %(queue)s
    LIMIT %(limit)s
), gone AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(SELECT doomed.id FROM doomed)) AND message.visible
    RETURNING message.id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM doomed) = %(limit)s

-- name: drop_queue
-- repeatable
-- Delete the queue with its bindings and subscriptions; `drop_messages` deletes its messages. `if_unused`: only without
-- consumers; `if_empty`: only without waiting messages. Returns its id, if it was deleted.
-- takes: queue text, if_unused boolean, if_empty boolean
DELETE FROM kombu_queue AS queue
WHERE queue.name = %(queue)s
  AND (NOT %(if_unused)s OR NOT EXISTS (
      SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id
  ))
  AND (NOT %(if_empty)s OR NOT (
      EXISTS (
          SELECT FROM kombu_message AS ready
          WHERE ready.queue_id = queue.id AND ready.visible AND ready.available_at IS NULL
          OFFSET 0
      )
      OR EXISTS (
          SELECT FROM kombu_message AS timed
          WHERE timed.queue_id = queue.id AND timed.visible AND timed.available_at IS NOT NULL
          OFFSET 0
      )
  ))
RETURNING queue.id

-- name: drop_unused_queues
-- Delete those of some queues that are auto-delete and have no consumer left. Returns their ids; `drop_messages` deletes
-- their messages. A queue in an uncommitted transaction is left for maintenance.
-- takes: queue_ids bigint[]
WITH unused AS MATERIALIZED (
    SELECT queue.id
    FROM kombu_queue AS queue
    WHERE queue.id = ANY (%(queue_ids)s) AND queue.auto_delete
      AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
    FOR UPDATE OF queue SKIP LOCKED
)
DELETE FROM kombu_queue AS queue
WHERE queue.id = ANY (ARRAY(SELECT unused.id FROM unused))
  AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
RETURNING queue.id

-- name: drop_messages
-- repeatable
-- Delete at most `limit` messages of a queue that is gone, each kind by the index that it is in. Returns how many, and
-- whether there may be more.
-- takes: queue_id bigint, limit bigint
WITH doomed AS MATERIALIZED (
    SELECT %(queue_id)s AS id
    WHERE NOT EXISTS (SELECT FROM kombu_queue AS queue WHERE queue.id = %(queue_id)s)
), chosen AS MATERIALIZED (
    SELECT one.id
    FROM doomed
    CROSS JOIN LATERAL (
        SELECT ready.id FROM kombu_message AS ready
        WHERE ready.queue_id = doomed.id AND ready.visible AND ready.available_at IS NULL
        UNION ALL
        SELECT timed.id FROM kombu_message AS timed
        WHERE timed.queue_id = doomed.id AND timed.visible AND timed.available_at IS NOT NULL
        UNION ALL
        SELECT held.id FROM kombu_message AS held
        WHERE held.consumer_id IS NOT NULL AND held.queue_id = doomed.id
        UNION ALL
        SELECT taken.id FROM kombu_message AS taken
        WHERE NOT taken.visible AND taken.consumer_id IS NULL AND taken.queue_id = doomed.id
    ) AS one
    LIMIT %(limit)s
), gone AS (
    DELETE FROM kombu_message AS message WHERE message.id = ANY (ARRAY(SELECT chosen.id FROM chosen))
    RETURNING message.id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM chosen) = %(limit)s

-- name: orphaned_queues
-- Ids of queues that are gone and have messages: a transaction published them that had read the queue before its end, or
-- a deletion was interrupted. Each index is read at its first entry of each queue.
WITH RECURSIVE ready AS (
    (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE first.visible AND first.available_at IS NULL ORDER BY first.queue_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE following.visible AND following.available_at IS NULL AND following.queue_id > ready.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM ready WHERE ready.queue_id IS NOT NULL
), timed AS (
    (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE first.visible AND first.available_at IS NOT NULL ORDER BY first.queue_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE following.visible AND following.available_at IS NOT NULL AND following.queue_id > timed.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM timed WHERE timed.queue_id IS NOT NULL
), taken AS (
    (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE NOT first.visible AND first.consumer_id IS NULL ORDER BY first.queue_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE NOT following.visible AND following.consumer_id IS NULL AND following.queue_id > taken.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM taken WHERE taken.queue_id IS NOT NULL
)
SELECT DISTINCT found.queue_id
FROM (SELECT * FROM ready UNION ALL SELECT * FROM timed UNION ALL SELECT * FROM taken) AS found
WHERE found.queue_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM kombu_queue AS queue WHERE queue.id = found.queue_id)

-- name: find_binding
-- repeatable
-- takes: queue text, exchange text, routing_key text
SELECT binding.type, binding.pattern
FROM kombu_binding AS binding JOIN kombu_queue AS queue ON queue.id = binding.queue_id
WHERE queue.name = %(queue)s AND binding.exchange = %(exchange)s AND binding.routing_key = %(routing_key)s

-- name: bind
-- repeatable
-- Bind a queue to an exchange, for the publishers of all processes.
-- takes: queue text, exchange text, type text, routing_key text, pattern text
INSERT INTO kombu_binding AS binding (exchange, type, routing_key, pattern, queue_id)
SELECT %(exchange)s, %(type)s, %(routing_key)s, %(pattern)s, queue.id
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s
ON CONFLICT (exchange, routing_key, queue_id) DO NOTHING

-- name: change_binding
-- repeatable
-- takes: queue text, exchange text, type text, routing_key text, pattern text
UPDATE kombu_binding AS binding
SET type = %(type)s, pattern = %(pattern)s
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s AND binding.queue_id = queue.id
  AND binding.exchange = %(exchange)s AND binding.routing_key = %(routing_key)s

-- name: unbind
-- repeatable
-- takes: queue text, exchange text, routing_key text
DELETE FROM kombu_binding AS binding
USING kombu_queue AS queue
WHERE queue.name = %(queue)s AND binding.queue_id = queue.id
  AND binding.exchange = %(exchange)s AND binding.routing_key = %(routing_key)s

-- name: bindings
-- repeatable
-- takes: exchange text
SELECT binding.routing_key, binding.pattern, queue.name
FROM kombu_binding AS binding
JOIN kombu_queue AS queue ON queue.id = binding.queue_id
WHERE binding.exchange = %(exchange)s

-- name: drop_exchange
-- repeatable
-- takes: exchange text
DELETE FROM kombu_binding AS binding WHERE binding.exchange = %(exchange)s

-- name: catch_up
-- repeatable
-- After an id that was given twice.
-- takes: relation text
SELECT kombu_catch_up(%(relation)s)
