-- How messages come in. Each is one statement and one commit (a long one has a statement before it that reads); a message
-- is durable when its publish returns.
--
-- NOTIFY takes a lock of the whole server at its commit, so it is sent only where a consumer of the queue has recorded
-- that it sleeps, and carries nothing. `publish` and `publish_to_exchange` return whether one does, and `wake` notifies in
-- a commit of its own (decision 0049). `publish_many` and transient messages notify in theirs. All notify the consumers
-- that fell asleep last, which are the most likely to live. A consumer that falls asleep at this very moment polls again.
--
-- `publish` and `publish_to_exchange` choose not to wait for the disk, and notify for transient messages, in conditions
-- that are always true. To insert in a WITH and to return what a query around it found was 332 us a publish and not 279,
-- a bare prepared insert being 235: more for the executor to set up.

-- name: publish
-- One message to the queue of that name. Writes nothing if there is no such queue, if one of its limits refuses and the
-- message was not `admitted`, if the message is in order and the queue is not fair, or if it has no key and the queue is.
-- takes: queue text, payload text, priority smallint, task_id text, tenant_id uuid, eta timestamptz, ttl_ms bigint,
--   flow_key text, in_order boolean, admitted boolean, durable text
-- include: insert_message
-- include: message_of_parameters
FROM kombu_queue AS queue
WHERE queue.name = %(queue)s AND
    -- include: fits
    AND
    -- include: commit_of_transient
RETURNING
    -- include: queue_and_sleep

-- name: publish_to_exchange
-- One message to every queue that is bound to the exchange and whose binding matches, in all processes' bindings.
-- With no queue bound nothing is written, nor if one of them does not take it, as above.
-- takes: exchange text, routing_key text, payload text, priority smallint, task_id text, tenant_id uuid,
--   eta timestamptz, ttl_ms bigint, flow_key text, in_order boolean, admitted boolean, durable text
WITH target AS MATERIALIZED (
    SELECT DISTINCT binding.queue_id
    FROM kombu_binding AS binding
    WHERE
        -- include: binding_matches
), queue AS MATERIALIZED (
    -- Apart, so that only the consumers of these queues are woken, whatever the plan.
    SELECT queue.id, queue.message_ttl_ms, queue.fair, queue.refuses
    FROM target
    JOIN kombu_queue AS queue ON queue.id = target.queue_id
)
-- include: insert_message
-- include: message_of_parameters
FROM queue
WHERE (%(admitted)s OR NOT EXISTS (SELECT FROM queue AS any_one WHERE any_one.refuses))
  AND NOT EXISTS (
      SELECT FROM queue AS any_one
      WHERE CASE WHEN any_one.fair THEN %(flow_key)s IS NULL ELSE %(in_order)s IS TRUE END
  ) AND
    -- include: commit_of_transient
RETURNING
    -- include: queue_and_sleep

-- name: address
-- repeatable
-- Where `copy_message` is to write a long message: its queue, no row if `publish` would write nothing; when it is due, and
-- when it expires, in microseconds since 2000. If the queue is deleted before the message comes, the message was there first:
-- it goes with its queue, as does one whose publish had read the queue.
-- takes: queue text, eta timestamptz, ttl_ms bigint, flow_key text, in_order boolean, admitted boolean, durable text
SELECT
    -- include: queue_and_sleep
    , (extract(epoch FROM message.available_at - '2000-01-01 00:00+00') * 1000000)::bigint,
    (extract(epoch FROM message.expires_at - '2000-01-01 00:00+00') * 1000000)::bigint, message.flow_key, message.flow_later
FROM (
    SELECT
        queue.id,
        -- include: times_and_keys
    FROM kombu_queue AS queue
    WHERE queue.name = %(queue)s AND
    -- include: fits
) AS message (queue_id, available_at, expires_at, flow_key, flow_later)

-- name: copy_message
-- One message, as a row of COPY: a payload of 1 MB is 11 ms as a text in a statement, which the server reads character by
-- character, and 6 ms so. Under 64 kB there is no difference.
-- copies: queue_id bigint, payload text, priority smallint, task_id text, tenant_id uuid, available_at timestamptz,
--   expires_at timestamptz, flow_key bigint, flow_later bigint, in_order boolean
COPY kombu_message (
    queue_id, payload, priority, task_id, tenant_id, available_at, expires_at, flow_key, flow_later, in_order
)
FROM STDIN (FORMAT binary)

-- name: retry_in_order
-- The next attempt of a task that runs in order: its message becomes the new one, at its place. Writes nothing if its
-- message is gone.
-- takes: queue text, payload text, task_id text, tenant_id uuid, eta timestamptz, ttl_ms bigint, flow_key text, durable text
UPDATE kombu_message AS message
SET payload = %(payload)s, tenant_id = %(tenant_id)s, failures = 0, visible = true, consumer_id = NULL, claimed_at = NULL,
    fence = CASE WHEN message.fence < 9223372036854775807 THEN message.fence + 1 ELSE 2 END,
    available_at = greatest(%(eta)s, now()),
    expires_at = now() + least(
        %(ttl_ms)s, (SELECT queue.message_ttl_ms FROM kombu_queue AS queue WHERE queue.name = %(queue)s)
    ) * interval '1 millisecond',
    flow_key = CASE WHEN (%(eta)s > now()) IS NOT TRUE THEN hashtextextended(%(flow_key)s, 0) END,
    flow_later = CASE WHEN %(eta)s > now() THEN hashtextextended(%(flow_key)s, 0) END
WHERE message.queue_id = (SELECT queue.id FROM kombu_queue AS queue WHERE queue.name = %(queue)s) AND message.in_order
  AND coalesce(message.flow_key, message.flow_later) = hashtextextended(%(flow_key)s, 0)
  AND (message.flow_key IS NOT NULL OR message.fence <> 0) AND message.fence <> 0 AND message.task_id = %(task_id)s
RETURNING
    -- include: queue_and_sleep

-- name: wake
-- Notify consumers of these queues: of those that sleep the one that fell asleep last, and the one before it too unless
-- the first was alive in the last 0.1 s; none while one still polls. It waits for no disk: the lock is held for
-- microseconds.
-- takes: queues bigint[]
SELECT set_config('synchronous_commit', 'off', true), count(pg_notify('kombu_' || sleeper.consumer_id, ''))
FROM unnest(%(queues)s) AS woken (queue_id)
-- include: sleepers_to_wake

-- name: wake_by_name
-- The same for queues by name, after a commit for which consumers that fell asleep meanwhile did not poll long enough.
-- takes: queues text[]
SELECT set_config('synchronous_commit', 'off', true), count(pg_notify('kombu_' || sleeper.consumer_id, ''))
FROM unnest(ARRAY(SELECT queue.id FROM kombu_queue AS queue WHERE queue.name = ANY (%(queues)s))) AS woken (queue_id)
-- include: sleepers_to_wake

-- name: routes
-- repeatable
-- The queues that `publish_to_exchange` would write to, for what is published together with something else.
-- takes: exchange text, routing_key text
SELECT DISTINCT queue.name
FROM kombu_binding AS binding
JOIN kombu_queue AS queue ON queue.id = binding.queue_id
WHERE
    -- include: binding_matches
ORDER BY queue.name

-- name: publish_many
-- Many messages to queues by name, in their order, in one commit: all or none. Returns the numbers (from 1) of those
-- whose queue does not exist, does not keep their order, needs a key, or refuses unless they are `admitted`; if there is one, nothing
-- at all was written.
-- takes: queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids text[],
--   etas timestamptz[], ttls_ms bigint[], flow_keys text[], in_orders boolean[], admitted boolean
WITH given AS MATERIALIZED (
    -- include: given
), touched AS (
    -- include: insert_message
    -- include: message_of_given
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
    -- include: wake_sleepers

-- name: publish_unique
-- The same if there are unique keys among them. Returns also the numbers of those whose key another task holds.
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
    -- include: wake_sleepers
