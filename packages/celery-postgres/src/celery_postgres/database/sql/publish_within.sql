-- How messages come in as part of a caller's own transaction, on the caller's connection.
--
-- They are visible when the caller commits, which may be much later: by then other consumers may sleep than do now. So
-- all that consume from the queue are notified, asleep or not. A notification is sent at COMMIT, and not at all after a
-- ROLLBACK. For the same reason times count from clock_timestamp(): now() is when the caller's transaction began.
--
-- Where the server's NOTIFY queue is full, a notification fails the caller's COMMIT, which only the caller can do again.
-- So none is sent while half of the queue is used (4 GB by default), and consumers poll.

-- name: publish_within
-- One message to the queue of that name; no row if this transaction sees no such queue, or if the queue refuses and the
-- message was not `admitted`. PostgreSQL plans it each time,
-- because we prepare no statements on the caller's connection: so it is written in the shortest form.
-- takes: queue text, payload text, priority smallint, task_id text, tenant_id uuid, eta timestamptz, ttl_ms bigint,
--   flow_key text, in_order boolean, admitted boolean
-- include: insert_message
-- include: message_of_parameters_within
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s AND
    -- include: fits
    AND (
      SELECT count(pg_notify('kombu_' || subscription.consumer_id, ''))
      FROM kombu_subscription AS subscription
      WHERE subscription.queue_id = queue.id AND (SELECT pg_notification_queue_usage()) < 0.5
  ) >= 0
RETURNING 1

-- name: publish_many_within
-- Messages to queues by name, in their order. Returns the numbers (from 1) of those whose queue does not exist, as far
-- as this transaction can see, or refuses unless they are `admitted`; if there is one, nothing at all was written.
-- takes: queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids text[],
--   etas timestamptz[], ttls_ms bigint[], flow_keys text[], in_orders boolean[], admitted boolean
WITH given AS MATERIALIZED (
    -- include: given
), touched AS (
    -- include: insert_message
    SELECT
        given.queue_id, given.payload, given.priority, given.task_id,
        given.tenant_id, CASE WHEN given.eta > clock_timestamp() THEN given.eta WHEN given.fair THEN clock_timestamp() END,
        clock_timestamp() + least(given.ttl_ms, given.message_ttl_ms) * interval '1 millisecond',
        CASE WHEN given.fair AND (given.eta > clock_timestamp()) IS NOT TRUE THEN hashtextextended(given.flow_key, 0) END,
        CASE WHEN given.fair AND given.eta > clock_timestamp() THEN hashtextextended(given.flow_key, 0) END,
        CASE WHEN given.fair THEN given.in_order END
    FROM given
    WHERE NOT EXISTS (
        SELECT FROM given WHERE
        -- include: unfit
    )
    RETURNING queue_id
)
SELECT
    (
        SELECT array_agg(given.number) FROM given WHERE
        -- include: unfit
    ),
    -- include: wake_all_within

-- name: publish_to_exchange_within
-- One message to every queue that is bound to the exchange and whose binding matches. Returns how many queues took it:
-- none if one of them refuses and the message was not `admitted`.
-- takes: exchange text, routing_key text, payload text, priority smallint, task_id text, tenant_id uuid,
--   eta timestamptz, ttl_ms bigint, flow_key text, in_order boolean, admitted boolean
WITH target AS (
    SELECT DISTINCT binding.queue_id
    FROM kombu_binding AS binding
    WHERE
        -- include: binding_matches
), touched AS (
    -- include: insert_message
    -- include: message_of_parameters_within
    FROM target
    JOIN kombu_queue AS queue ON queue.id = target.queue_id
    WHERE NOT EXISTS (
        SELECT FROM target AS one JOIN kombu_queue AS any_one ON any_one.id = one.queue_id
        WHERE any_one.refuses AND NOT %(admitted)s
            OR CASE WHEN any_one.fair THEN %(flow_key)s IS NULL ELSE %(in_order)s IS TRUE END
    )
    RETURNING queue_id
)
SELECT
    (SELECT count(*) FROM touched),
    -- include: wake_all_within

-- name: publish_unique_within
-- `publish_unique` in the caller's transaction.
-- takes: queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids text[],
--   etas timestamptz[], ttls_ms bigint[], flow_keys text[], in_orders boolean[], unique_keys text[],
--   unique_untils smallint[], unique_ends timestamptz[], conflicts text[], markers text[], delays float[], longests float[]
WITH given AS MATERIALIZED (
    -- include: given_unique
),
-- include: publish_unique
SELECT
    -- include: missing_and_firsts
    ,
    -- include: wake_all_within
