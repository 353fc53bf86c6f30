-- The queues and the workers as the console shows them, at a cost that does not grow with what waits.

-- name: view_queues
-- Every queue with its messages by state; those of the application first, then the internal ones. Counting stops at `cap`
-- for each queue and state. At most `queues` rows.
-- takes: names text[], cap integer, queues integer
WITH claimed AS MATERIALIZED (
    -- include: claimed_by_queue
), dead AS MATERIALIZED (
    SELECT letter.queue, count(*) AS letters
    FROM (
        SELECT newest.queue FROM kombu_dead_letter AS newest ORDER BY newest.died_at DESC LIMIT 10001
    ) AS letter
    GROUP BY letter.queue
)
SELECT
    queue.name, queue.internal, queue.paused,
    -- include: ready_count
    AS waiting,
    extract(epoch FROM now() -
        -- include: ready_since
    )::float AS oldest_s,
    -- include: scheduled_count
    AS scheduled,
    coalesce((SELECT claimed.messages FROM claimed WHERE claimed.queue_id = queue.id), 0) AS running,
    -- include: consumer_count
    AS consumers,
    coalesce((SELECT dead.letters FROM dead WHERE dead.queue = queue.name), 0) AS dead_letters
FROM (
    SELECT queue.id, queue.name, queue.paused,
        -- include: is_internal
        AS internal
    FROM kombu_queue AS queue
    WHERE %(names)s IS NULL OR queue.name = ANY (%(names)s)
    ORDER BY internal, queue.consumed DESC, queue.id
    LIMIT %(queues)s
) AS queue
ORDER BY queue.internal, queue.name

-- name: view_totals
-- How many dead letters there are, counted to 10,001; and how many came in the last 15 minutes.
SELECT count(*), count(*) FILTER (WHERE dead.died_at > now() - interval '15 minutes')
FROM (
    SELECT letter.died_at FROM kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT 10001
) AS dead

-- name: view_next_of_queue
-- The messages of a queue that run next, about: by priority, then by age.
-- takes: queue text, limit integer
SELECT message.*
FROM kombu_queue AS queue
CROSS JOIN LATERAL (
    (
        SELECT
        -- include: message_columns
        , message.priority
        -- include: from_untimed
        ORDER BY message.priority DESC, message.id + 0
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT
        -- include: message_columns
        , message.priority
        -- include: from_timed
          AND message.available_at <= now()
        ORDER BY message.available_at
        LIMIT %(limit)s
    )
) AS message
WHERE queue.name = %(queue)s
ORDER BY message.priority DESC, coalesce(message.available_at, message.enqueued_at)
LIMIT %(limit)s

-- name: view_workers
-- The processes that consume: what each has claimed (counted to 1,001) and since when the oldest of it, and whether the
-- session that shows its life still holds its lock (null if it never had one of its own).
WITH held AS MATERIALIZED (
    SELECT lock.pid, lock.classid::bigint << 32 | lock.objid::bigint AS key
    FROM pg_locks AS lock
    WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted
      AND lock.database = (SELECT one.oid FROM pg_database AS one WHERE one.datname = current_database())
)
SELECT consumer.id, consumer.hostname, consumer.pid, consumer.started_at, consumer.beat, (
    SELECT array_agg(queue.name ORDER BY queue.name)
    FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE subscription.consumer_id = consumer.id
), claim.messages, claim.oldest, CASE WHEN consumer.locked OR consumer.session_key IS NOT NULL THEN EXISTS (
    SELECT FROM held
    WHERE held.key = coalesce(consumer.session_key, hashtextextended('kombu_consumer', consumer.id))
      AND held.pid = coalesce(consumer.session_pid, held.pid)
) END
FROM kombu_consumer AS consumer
CROSS JOIN LATERAL (
    SELECT count(*) AS messages, min(one.claimed_at) AS oldest
    FROM (
        SELECT message.claimed_at FROM kombu_message AS message WHERE message.consumer_id = consumer.id LIMIT 1001
    ) AS one
) AS claim
ORDER BY consumer.hostname, consumer.id
LIMIT 2000

-- name: view_schedules
-- takes: limit integer
SELECT entry.name, entry.last_run_at, entry.runs FROM celery_beat_entry AS entry ORDER BY entry.name LIMIT %(limit)s
