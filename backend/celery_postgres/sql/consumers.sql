-- Which processes consume, and which of them live.

-- name: register_consumer
-- takes: hostname text, pid integer
INSERT INTO kombu_consumer (hostname, pid) VALUES (%(hostname)s, %(pid)s) RETURNING id

-- name: lock_consumer
-- Take the lock that says that this session lives: it is free the moment the session is gone.
-- takes: consumer bigint
SELECT pg_try_advisory_lock(hashtextextended('kombu_consumer', %(consumer)s))

-- name: beat
-- Raise this consumer's counter. Returns (consumer, counter, whether it ever locked, paused queues, whether something
-- waits, stopped tasks) of this one, only if its row still exists, and of all others. With `peek` it is the look that an idle
-- consumer takes: is there a message for one of its queues, or one due before the next beat?
-- takes: consumer bigint, locked boolean, peek boolean
WITH mine AS (
    UPDATE kombu_consumer AS consumer
    SET beat = consumer.beat + 1, locked = consumer.locked OR %(locked)s
    WHERE consumer.id = %(consumer)s
    RETURNING consumer.id, consumer.beat, consumer.locked
)
SELECT mine.id, mine.beat, mine.locked, (
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
), set_config('synchronous_commit', 'off', true)
FROM mine
UNION ALL
SELECT other.id, other.beat, other.locked, NULL, NULL, NULL, NULL FROM kombu_consumer AS other WHERE other.id <> %(consumer)s

-- name: session_gone
-- Whether nobody holds that consumer's lock.
-- takes: consumer bigint
SELECT CASE WHEN pg_try_advisory_lock(hashtextextended('kombu_consumer', %(consumer)s))
    THEN pg_advisory_unlock(hashtextextended('kombu_consumer', %(consumer)s)) ELSE false END

-- name: remove_consumer
-- Remove a consumer that is dead: its counter still stands where it was last seen. What it had claimed is orphaned.
-- Queues that delete themselves go with their last consumer. Returns the id, and whether it ever locked.
-- takes: consumer bigint, beat bigint
DELETE FROM kombu_consumer AS consumer
WHERE consumer.id = %(consumer)s AND (%(beat)s IS NULL OR consumer.beat = %(beat)s)
RETURNING consumer.id, consumer.locked

-- name: gone_consumers
-- Consumers that no longer exist, and how much is still claimed in their names: looked for between the numbers of those
-- that do, since a live consumer's finished claims stay in the index while a long transaction is open (a million are
-- 0.8 s).
SELECT message.consumer_id, count(*)
FROM (
    SELECT lag(consumer.id, 1, -1::bigint) OVER (ORDER BY consumer.id) AS below, consumer.id AS above
    FROM kombu_consumer AS consumer
    UNION ALL
    SELECT coalesce(max(consumer.id), -1), 9223372036854775807 FROM kombu_consumer AS consumer
) AS gap
CROSS JOIN LATERAL (
    SELECT candidate.consumer_id
    FROM kombu_message AS candidate
    WHERE candidate.consumer_id > gap.below AND candidate.consumer_id < gap.above
    OFFSET 0
) AS message
GROUP BY message.consumer_id
ORDER BY message.consumer_id

-- name: claims
-- What a consumer holds.
-- takes: consumer bigint, most bigint
SELECT message.id, message.fence
FROM kombu_message AS message
WHERE message.consumer_id = %(consumer)s
LIMIT %(most)s

-- name: old_claims
-- What a consumer has held for a while.
-- takes: consumer bigint
SELECT message.id, message.fence
FROM kombu_message AS message
WHERE message.consumer_id = %(consumer)s AND message.claimed_at < now() - interval '10 seconds'

-- name: subscribe
-- Awake at first: the consumer looks before it sleeps.
-- takes: consumer bigint, queue_id bigint
WITH used AS (
    UPDATE kombu_queue AS queue SET used_at = now(), consumed = true
    WHERE queue.id = %(queue_id)s AND (NOT queue.consumed OR queue.expires_ms IS NOT NULL)
)
INSERT INTO kombu_subscription (queue_id, consumer_id, asleep)
SELECT queue.id, %(consumer)s, false
FROM kombu_queue AS queue WHERE queue.id = %(queue_id)s
ON CONFLICT (queue_id, consumer_id) DO UPDATE SET asleep = false
RETURNING queue_id

-- name: unsubscribe
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
-- Whether the tables are there, as this release needs them, and the rights of whoever publishes or consumes. It reads no
-- row: one with an absurd value would keep everybody from connecting.
SELECT kombu_refuse(queue.name), queue.used_at, message.expires_at, subscription.queue_id
FROM kombu_queue AS queue, kombu_message AS message, kombu_subscription AS subscription
WHERE false

-- name: drop_abandoned_queues
-- Delete queues past their expiry, and those that delete themselves and had a consumer, that have none now. Returns their
-- ids; their messages are `drop_messages`'. A queue in somebody's uncommitted transaction (a new binding of it is enough)
-- is left for the next sweep: waiting for that transaction, this consumer would be taken for dead.
WITH abandoned AS MATERIALIZED (
    SELECT queue.id
    FROM kombu_queue AS queue
    WHERE (
        queue.expires_ms IS NOT NULL AND queue.used_at
            < now() - least(greatest(queue.expires_ms, 0), 100000000000000) * interval '1 millisecond'
        OR queue.auto_delete AND queue.consumed AND queue.used_at < now() - interval '10 seconds'
    ) AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
    FOR UPDATE OF queue SKIP LOCKED
)
DELETE FROM kombu_queue AS queue
WHERE queue.id = ANY (ARRAY(SELECT abandoned.id FROM abandoned))
  AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)
RETURNING queue.id

-- name: drop_expired_messages
-- Kombu's `expiration` and `x-message-ttl`: over is over, as AMQP has it. Tasks leave a dead letter, events do not.
-- takes: most bigint
WITH gone AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(
        SELECT candidate.id FROM kombu_message AS candidate
        WHERE candidate.visible AND candidate.expires_at <= now()
        ORDER BY candidate.expires_at
        LIMIT %(most)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING message.*
), buried AS (
    INSERT INTO kombu_dead_letter (message_id, failures, enqueued_at, tenant_id, queue, task_id, reason, payload)
    SELECT gone.id, gone.failures, gone.enqueued_at, gone.tenant_id, queue.name, gone.task_id, 'expired', gone.payload
    FROM gone LEFT JOIN kombu_queue AS queue ON queue.id = gone.queue_id
    WHERE gone.task_id IS NOT NULL
)
SELECT count(*) FROM gone
