-- How messages come in as part of somebody's own transaction, on his connection.
--
-- They are visible when he commits, which may be much later: by then other consumers may sleep than do now. So all that
-- consume from the queue are notified, asleep or not. A notification is sent at COMMIT, and not at all after a
-- ROLLBACK. For the same reason times count from clock_timestamp(): now() is when his transaction began.
--
-- Where the server's NOTIFY queue is full, a notification fails his COMMIT, which only he can do again. So none is sent
-- while half of the queue is used (4 GB if nobody has made it smaller), and consumers look by themselves.

-- name: publish_within
-- One message to the queue of that name; no row if this transaction sees no such queue. It is planned each time, because
-- the connection is not ours to prepare statements on: so in the shortest form.
-- takes: queue text, payload text, priority smallint, task_id text, tenant_id uuid, eta timestamptz, ttl_ms bigint
INSERT INTO kombu_message (
    queue_id, payload, priority, task_id, tenant_id, available_at, expires_at
)
SELECT
    queue.id, %(payload)s, %(priority)s, %(task_id)s, %(tenant_id)s,
    CASE WHEN %(eta)s > clock_timestamp() THEN %(eta)s END,
    clock_timestamp() + least(%(ttl_ms)s, queue.message_ttl_ms) * interval '1 millisecond'
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s
  AND (
      SELECT count(pg_notify('kombu_' || subscription.consumer_id, ''))
      FROM kombu_subscription AS subscription
      WHERE subscription.queue_id = queue.id AND (SELECT pg_notification_queue_usage()) < 0.5
  ) >= 0
RETURNING 1

-- name: publish_many_within
-- Messages to queues by name, in their order. Returns the numbers (from 1) of those whose queue does not exist, as far
-- as this transaction can see; if there is one, nothing at all was written.
-- takes: queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids uuid[],
--   etas timestamptz[], ttls_ms bigint[]
WITH given AS MATERIALIZED (
    SELECT one.*, queue.id AS queue_id, queue.message_ttl_ms
    FROM unnest(
        %(queues)s, %(payloads)s, %(priorities)s, %(task_ids)s, %(tenant_ids)s, %(etas)s, %(ttls_ms)s
    ) WITH ORDINALITY AS one (queue, payload, priority, task_id, tenant_id, eta, ttl_ms, number)
    LEFT JOIN kombu_queue AS queue ON queue.name = one.queue
    ORDER BY one.number
), inserted AS (
    INSERT INTO kombu_message (
        queue_id, payload, priority, task_id, tenant_id, available_at, expires_at
    )
    SELECT
        given.queue_id, given.payload, given.priority, given.task_id,
        given.tenant_id, CASE WHEN given.eta > clock_timestamp() THEN given.eta END,
        clock_timestamp() + least(given.ttl_ms, given.message_ttl_ms) * interval '1 millisecond'
    FROM given
    WHERE NOT EXISTS (SELECT FROM given AS any_one WHERE any_one.queue_id IS NULL)
    RETURNING queue_id
)
SELECT
    (SELECT array_agg(given.number) FROM given WHERE given.queue_id IS NULL),
    (
        SELECT count(pg_notify('kombu_' || subscription.consumer_id, ''))
        FROM (SELECT DISTINCT queue_id FROM inserted) AS touched
        JOIN kombu_subscription AS subscription ON subscription.queue_id = touched.queue_id
        WHERE (SELECT pg_notification_queue_usage()) < 0.5
    )

-- name: publish_to_exchange_within
-- One message to every queue that is bound to the exchange and whose binding matches. Returns how many queues took it.
-- takes: exchange text, routing_key text, payload text, priority smallint, task_id text, tenant_id uuid,
--   eta timestamptz, ttl_ms bigint
WITH target AS (
    SELECT DISTINCT binding.queue_id
    FROM kombu_binding AS binding
    WHERE binding.exchange = %(exchange)s
      AND CASE binding.type
          WHEN 'fanout' THEN true
          WHEN 'topic' THEN %(routing_key)s ~ binding.pattern
          ELSE binding.routing_key = %(routing_key)s
      END
), inserted AS (
    INSERT INTO kombu_message (
        queue_id, payload, priority, task_id, tenant_id, available_at, expires_at
    )
    SELECT
        queue.id, %(payload)s, %(priority)s, %(task_id)s, %(tenant_id)s,
        CASE WHEN %(eta)s > clock_timestamp() THEN %(eta)s END,
        clock_timestamp() + least(%(ttl_ms)s, queue.message_ttl_ms) * interval '1 millisecond'
    FROM target
    JOIN kombu_queue AS queue ON queue.id = target.queue_id
    RETURNING queue_id
)
SELECT
    (SELECT count(*) FROM inserted),
    (
        SELECT count(pg_notify('kombu_' || subscription.consumer_id, ''))
        FROM (SELECT DISTINCT queue_id FROM inserted) AS touched
        JOIN kombu_subscription AS subscription ON subscription.queue_id = touched.queue_id
        WHERE (SELECT pg_notification_queue_usage()) < 0.5
    )
