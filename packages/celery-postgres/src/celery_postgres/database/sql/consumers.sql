-- Which processes consume, what they consume, and which of them live.

-- name: register_consumer
-- Add a consumer, under an id that its process has drawn: a sequence goes back in time with its database, and then two
-- processes would share an id. It fails unless the table has what a heartbeat writes.
-- takes: consumer bigint, hostname text, pid integer, session_pid integer, session_key bigint, session_direct boolean
INSERT INTO kombu_consumer (id, hostname, pid, session_pid, session_key, session_direct) OVERRIDING SYSTEM VALUE
VALUES (
    %(consumer)s, %(hostname)s, %(pid)s, %(session_pid)s, %(session_key)s,
    %(session_direct)s
)
RETURNING draining

-- name: open_session
-- Take the lock that shows that this session lives: it is free as soon as the session has ended. Null takes none.
-- Returns the server process and the database's oid, which a restored database does not share.
-- takes: key bigint
SELECT pg_backend_pid(), (
    SELECT database.oid::bigint FROM pg_database AS database WHERE database.datname = current_database()
), CASE WHEN %(key)s IS NOT NULL THEN pg_try_advisory_lock(%(key)s) END

-- name: beat
-- Raise this consumer's counter, and note its session. Returns (consumer, counter, whether it has a session of its own,
-- whether that is direct, paused queues, whether a message waits, blocked tasks, fair queues, whether it shall end) of this
-- consumer, if its row still exists, and of all others. With `peek` it also checks, for an idle consumer, whether one of its
-- queues has a message that is ready, or due before the next heartbeat. It also notes what the worker reports of itself.
-- takes: consumer bigint, session_pid integer, session_key bigint, session_direct boolean, peek boolean, worker text,
--   pool text, slots integer, app_version text, busy integer, running jsonb, draining boolean
WITH mine AS (
    UPDATE kombu_consumer AS consumer
    SET beat = consumer.beat + 1, session_pid = %(session_pid)s, session_key = %(session_key)s,
        session_direct = %(session_direct)s, beat_at = now(), name = %(worker)s, pool = %(pool)s, slots = %(slots)s,
        app_version = %(app_version)s, busy = %(busy)s, running = %(running)s,
        draining = consumer.draining OR %(draining)s
    WHERE consumer.id = %(consumer)s
    RETURNING consumer.id, consumer.beat, consumer.draining
)
SELECT mine.id, mine.beat, NULL, NULL, (
    SELECT array_agg(queue.id)
    FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE subscription.consumer_id = mine.id AND queue.paused
), %(peek)s AND EXISTS (
    SELECT FROM kombu_subscription AS subscription
    WHERE subscription.consumer_id = mine.id AND (
        EXISTS (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = subscription.queue_id AND message.visible AND message.available_at IS NULL
            OFFSET 0
        )
        OR EXISTS (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = subscription.queue_id AND message.visible
              AND message.available_at IS NOT NULL AND message.available_at < now() + interval '2 seconds'
            OFFSET 0
        )
    )
), (
    SELECT array_agg(stopped.name) FROM kombu_stopped_task AS stopped
), (
    SELECT array_agg(queue.id)
    FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE subscription.consumer_id = mine.id AND queue.fair
), mine.draining, set_config('synchronous_commit', 'off', true)
FROM mine
UNION ALL
SELECT
    other.id, other.beat, other.locked OR other.session_key IS NOT NULL, other.session_direct, NULL, NULL, NULL, NULL, NULL,
    NULL
FROM kombu_consumer AS other
WHERE other.id <> %(consumer)s

-- name: session_lives
-- Whether a consumer had a session of its own, and whether that session holds its lock; no row if there is no such
-- consumer. The holder counts: every login sees the number of the lock, and could take it when the session ends. An older
-- release, which fills in `locked` alone, does not note the holder.
-- takes: consumer bigint
SELECT consumer.locked OR consumer.session_key IS NOT NULL, EXISTS (
    SELECT FROM pg_locks AS held
    WHERE held.locktype = 'advisory' AND held.objsubid = 1 AND held.granted
      AND held.database = (SELECT one.oid FROM pg_database AS one WHERE one.datname = current_database())
      AND (held.classid::bigint << 32 | held.objid::bigint)
          = coalesce(consumer.session_key, hashtextextended('kombu_consumer', consumer.id))
      AND held.pid = coalesce(consumer.session_pid, held.pid)
)
FROM kombu_consumer AS consumer
WHERE consumer.id = %(consumer)s

-- name: remove_consumer
-- Remove a consumer whose counter still is `beat`; null removes it in any case. Its claims are orphaned. The expiry of its
-- queues counts from now: until now they were in use. A queue that another session changes is in use by that session, and
-- waiting for it could end in a deadlock.
-- takes: consumer bigint, beat bigint
WITH unused AS MATERIALIZED (
    SELECT queue.id
    FROM kombu_consumer AS consumer
    JOIN kombu_subscription AS subscription ON subscription.consumer_id = consumer.id
    JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE consumer.id = %(consumer)s AND (%(beat)s IS NULL OR consumer.beat = %(beat)s)
      AND (queue.expires_ms IS NOT NULL OR queue.auto_delete)
    FOR NO KEY UPDATE OF queue SKIP LOCKED
), since AS (
    UPDATE kombu_queue AS queue SET used_at = now()
    WHERE queue.id = ANY (ARRAY(SELECT unused.id FROM unused))
)
DELETE FROM kombu_consumer AS consumer
WHERE consumer.id = %(consumer)s AND (%(beat)s IS NULL OR consumer.beat = %(beat)s)
RETURNING consumer.hostname, consumer.pid, consumer.started_at, consumer.name, consumer.pool, consumer.slots,
    consumer.app_version, ARRAY(
        SELECT queue.name
        FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
        WHERE subscription.consumer_id = consumer.id
        ORDER BY queue.name
    ), consumer.running

-- name: gone_consumers
-- Consumers that no longer exist, and how many messages they still claim.
SELECT message.consumer_id, count(*)
FROM
    -- include: claimed_by_nobody
GROUP BY message.consumer_id
ORDER BY message.consumer_id

-- name: claims
-- What a consumer has claimed.
-- takes: consumer bigint, limit bigint
SELECT message.id, message.fence
FROM kombu_message AS message
WHERE message.consumer_id = %(consumer)s
LIMIT %(limit)s

-- name: old_claims
-- What a consumer claimed more than 10 s ago.
-- takes: consumer bigint
SELECT message.id, message.fence
FROM kombu_message AS message
WHERE message.consumer_id = %(consumer)s AND message.claimed_at < now() - interval '10 seconds'

-- name: subscribe
-- repeatable
-- Note that a consumer consumes a queue. It is awake at first, because it polls before it sleeps. By name, because after a
-- restore an id may be another queue's. Returns the queue's id and whether it is fair; no row if there is no such queue.
-- takes: consumer bigint, queue text
WITH used AS (
    UPDATE kombu_queue AS queue SET used_at = now(), consumed = true
    WHERE queue.name = %(queue)s AND (NOT queue.consumed OR queue.expires_ms IS NOT NULL)
)
INSERT INTO kombu_subscription (queue_id, consumer_id, asleep)
SELECT queue.id, %(consumer)s, false
FROM kombu_queue AS queue WHERE queue.name = %(queue)s
ON CONFLICT (queue_id, consumer_id) DO UPDATE SET asleep = false
RETURNING queue_id, (SELECT queue.fair FROM kombu_queue AS queue WHERE queue.id = queue_id)

-- name: subscriptions
-- takes: consumer bigint
SELECT queue.name, queue.id
FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
WHERE subscription.consumer_id = %(consumer)s

-- name: unsubscribe
-- repeatable
-- End a subscription; the time counts for the queue's expiry.
-- takes: consumer bigint, queue_id bigint
WITH ended AS (
    DELETE FROM kombu_subscription AS subscription
    WHERE subscription.consumer_id = %(consumer)s AND subscription.queue_id = %(queue_id)s
    RETURNING subscription.queue_id
)
UPDATE kombu_queue AS queue SET used_at = now() FROM ended WHERE queue.id = ended.queue_id
RETURNING queue.name, queue.auto_delete

-- name: look
-- repeatable
-- Fails unless the tables that this release needs exist, and the rights to publish and consume. It reads no row: a row
-- with an absurd value would keep every process from connecting. A migration that a release cannot work with takes away
-- something that the release names here (decision 0035). It writes none either, and still fails where the server takes no
-- writes: a worker would find out only after it has connected, where Celery begins anew at once.
WITH written AS (
    INSERT INTO kombu_message (queue_id, payload, in_order) SELECT 0, '', true WHERE false
)
SELECT kombu_refuse(queue.name), queue.used_at, queue.refuses, message.expires_at, subscription.queue_id,
    'celery_attempt'::regclass
FROM kombu_queue AS queue, kombu_message AS message, kombu_subscription AS subscription
WHERE false

-- name: what_is_due
-- repeatable
-- Whether there is anything to do for each step of the maintenance. One statement, because every consumer asks every 10 s:
-- the steps themselves were 0.5 statements a second of an idle worker.
SELECT
    EXISTS (
        SELECT FROM kombu_queue AS queue WHERE
            -- include: abandoned
    ) AS queues,
    (
        SELECT true FROM kombu_message AS candidate WHERE
            -- include: expired
        ORDER BY candidate.expires_at LIMIT 1
    ) IS NOT NULL AS messages,
    EXISTS (
        SELECT FROM kombu_throttle AS throttle WHERE
            -- include: idle_throttle
    ) AS throttles,
    EXISTS (
        -- include: keyed_though_unfair
    ) AS keys,
    EXISTS (
        SELECT FROM
            -- include: claimed_by_nobody
    ) AS claims

-- name: drop_abandoned_queues
-- Delete queues without consumers that are past their expiry, or that are auto-delete and had a consumer. Returns their
-- ids; `drop_messages` deletes their messages. A queue in an uncommitted transaction (a new binding of it is enough) is
-- left for the next maintenance: while this consumer waited for that transaction, others would take it for dead.
WITH abandoned AS MATERIALIZED (
    SELECT queue.id
    FROM kombu_queue AS queue
    WHERE
        -- include: abandoned
    FOR UPDATE OF queue SKIP LOCKED
)
DELETE FROM kombu_queue AS queue
WHERE queue.id = ANY (ARRAY(SELECT abandoned.id FROM abandoned))
  AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
RETURNING queue.id
