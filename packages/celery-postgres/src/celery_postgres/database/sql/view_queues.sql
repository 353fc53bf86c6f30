-- The queues as the console shows them, at a cost that does not grow with what waits.

-- name: view_queues
-- Every queue with its waiting messages; those of the application first, then the internal ones. Counting stops at `cap`
-- for each queue and state. At most `queues` rows.
-- takes: names text[], cap integer, queues integer
SELECT
    queue.id, queue.name, queue.internal, queue.paused,
    -- include: ready_count
    AS waiting,
    extract(epoch FROM now() -
        -- include: ready_since
    )::float AS oldest_s,
    -- include: scheduled_count
    AS scheduled,
    -- include: consumer_count
    AS consumers
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

-- name: view_claims
-- How many messages of each queue are claimed, and how many each consumer has claimed and since when the oldest of them, of the
-- first `cap` claims. A row is of a queue or of a consumer: both are counted from one reading, which is most of the cost.
-- takes: cap integer
SELECT claim.queue_id, claim.consumer_id, count(*), min(claim.claimed_at)
FROM (
    SELECT message.queue_id, message.consumer_id, message.claimed_at
    FROM kombu_message AS message
    WHERE message.consumer_id IS NOT NULL
    LIMIT %(cap)s
) AS claim
GROUP BY GROUPING SETS ((claim.queue_id), (claim.consumer_id))

-- name: view_claims_of_consumers
-- The same rows of consumers alone, each counted to `cap`.
-- takes: cap integer
SELECT NULL, consumer.id, claim.messages, claim.oldest
FROM kombu_consumer AS consumer
CROSS JOIN LATERAL (
    SELECT count(*) AS messages, min(one.claimed_at) AS oldest
    FROM (
        SELECT message.claimed_at FROM kombu_message AS message WHERE message.consumer_id = consumer.id LIMIT %(cap)s
    ) AS one
) AS claim
WHERE claim.messages > 0
ORDER BY consumer.hostname, consumer.id
LIMIT 2000

-- name: view_dead_by_queue
-- The newest `cap` dead letters by queue, and how many of them came in the last `recent_s` seconds.
-- takes: cap integer, recent_s float
SELECT dead.queue, count(*), count(*) FILTER (WHERE dead.died_at > now() - %(recent_s)s * interval '1 second')
FROM (
    SELECT letter.queue, letter.died_at FROM kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT %(cap)s
) AS dead
GROUP BY dead.queue

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

-- name: view_health
-- The age of the oldest open transaction that this role may see, the dead and live rows of the message table, and how long
-- ago a vacuum ended there.
SELECT (
    SELECT extract(epoch FROM now() - min(activity.xact_start))::float
    FROM pg_stat_activity AS activity
    WHERE activity.datname = current_database() AND activity.pid <> pg_backend_pid()
      AND activity.backend_type = 'client backend'
), stats.n_dead_tup, stats.n_live_tup,
    extract(epoch FROM now() - greatest(stats.last_vacuum, stats.last_autovacuum))::float
FROM (SELECT to_regclass('kombu_message') AS relation) AS messages
LEFT JOIN pg_stat_all_tables AS stats ON stats.relid = messages.relation
