-- What an operator asks and does by hand.

-- name: queues_overview
-- Every queue, or the one of that name, with its messages by state, the internal queues last; counting stops at `cap`, and a null `cap` counts all.
-- Each state is counted in the index that it has: 0.1 s for 1.5 million messages, and 2 s where vacuum has not been.
-- takes: queue text, cap integer
WITH claimed AS MATERIALIZED (
    -- include: claimed_by_queue
)
SELECT
    queue.name,
    queue.paused,
    -- include: ready_count
    AS ready,
    -- include: scheduled_count
    AS scheduled,
    coalesce((SELECT claimed.messages FROM claimed WHERE claimed.queue_id = queue.id), 0) AS claimed,
    (
        SELECT count(*) FROM (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = queue.id AND NOT message.visible AND message.consumer_id IS NULL
            LIMIT %(cap)s
        ) AS part
    ) AS taken_by_stock,
    extract(epoch FROM now() -
        -- include: ready_since
    )::float AS oldest_s,
    -- include: consumer_count
    AS consumers
FROM kombu_queue AS queue
WHERE %(queue)s IS NULL OR queue.name = %(queue)s
ORDER BY
    -- include: is_internal
    , queue.name

-- name: set_paused
-- Consumers see it with their next heartbeat, within 1.3 s.
-- takes: queue text, paused boolean
UPDATE kombu_queue AS queue SET paused = %(paused)s WHERE queue.name = %(queue)s RETURNING queue.name

-- name: blocked_tasks
SELECT stopped.name, stopped.stopped_at FROM kombu_stopped_task AS stopped ORDER BY stopped.name

-- name: block_task
-- Consumers see it with their next heartbeat, within 1.3 s.
-- takes: task text
INSERT INTO kombu_stopped_task (name) VALUES (%(task)s) ON CONFLICT (name) DO NOTHING

-- name: unblock_task
-- takes: task text
DELETE FROM kombu_stopped_task AS stopped WHERE stopped.name = %(task)s RETURNING stopped.name

-- name: consumers_overview
SELECT consumer.id, consumer.hostname, consumer.pid, consumer.started_at, (
    SELECT array_agg(queue.name ORDER BY queue.name)
    FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE subscription.consumer_id = consumer.id
), (
    SELECT count(*) FROM kombu_message AS message WHERE message.consumer_id = consumer.id
)
FROM kombu_consumer AS consumer
ORDER BY consumer.id

-- name: messages_of_task
-- A task's messages: the queue, whether it is paused and consumed; whether the message waits, or else who has claimed it.
-- takes: task_id text
SELECT queue.name, queue.paused, EXISTS (
    SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id
), message.visible, message.consumer_id
FROM (
    -- Only what a client that publishes and waits may read.
    SELECT waiting.id, waiting.queue_id, waiting.visible, waiting.consumer_id FROM kombu_message AS waiting
    WHERE waiting.task_id = %(task_id)s AND waiting.visible
    UNION ALL
    SELECT claimed.id, claimed.queue_id, claimed.visible, claimed.consumer_id FROM kombu_message AS claimed
    WHERE claimed.task_id = %(task_id)s AND NOT claimed.visible
) AS message
JOIN kombu_queue AS queue ON queue.id = message.queue_id
ORDER BY message.id

-- name: status_of_task
-- repeatable
-- Where a task is, in one row: what is stored of it, its newest message with its queue and its consumer, its newest
-- dead letter, and the worker that it was lost with, unless a worker reports that it runs. Times that Python has no word for are null.
-- takes: task_id text
WITH stored AS MATERIALIZED (
    SELECT meta.status, CASE WHEN meta.date_done BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.date_done END AS at
    FROM celery_taskmeta AS meta
    WHERE meta.task_id = %(task_id)s
), newest AS MATERIALIZED (
    SELECT message.*
    FROM (
        -- include: messages_of_task
    ) AS message
    ORDER BY message.id DESC
    LIMIT 1
), dead AS MATERIALIZED (
    SELECT letter.id, letter.died_at, letter.queue, letter.failures, letter.reason
    FROM kombu_dead_letter AS letter
    WHERE letter.task_id = %(task_id)s
    ORDER BY letter.id + 0 DESC
    LIMIT 1
), lost AS MATERIALIZED (
    SELECT attempt.ended_at, attempt.worker
    FROM celery_attempt AS attempt
    WHERE attempt.task_id = %(task_id)s AND attempt.state = 'lost' AND attempt.error = 'acknowledged early'
      AND NOT EXISTS (
          SELECT FROM kombu_consumer AS consumer
          WHERE consumer.running @> jsonb_build_array(jsonb_build_object('id', %(task_id)s))
      )
    ORDER BY attempt.id + 0 DESC
    LIMIT 1
)
SELECT
    (SELECT stored.status FROM stored), (SELECT stored.at FROM stored),
    newest.visible, newest.revoked, newest.available_at > now(), newest.available_at, newest.enqueued_at,
    newest.claimed_at, newest.failures, newest.consumer_id,
    (SELECT queue.name FROM kombu_queue AS queue WHERE queue.id = newest.queue_id),
    (SELECT queue.paused FROM kombu_queue AS queue WHERE queue.id = newest.queue_id),
    EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = newest.queue_id),
    (SELECT consumer.hostname FROM kombu_consumer AS consumer WHERE consumer.id = newest.consumer_id),
    (SELECT consumer.pid FROM kombu_consumer AS consumer WHERE consumer.id = newest.consumer_id),
    dead.id, CASE WHEN dead.died_at BETWEEN '0001-01-02' AND '9999-12-30' THEN dead.died_at END, dead.queue, dead.failures,
    dead.reason, CASE WHEN lost.ended_at BETWEEN '0001-01-02' AND '9999-12-30' THEN lost.ended_at END, lost.worker
FROM (SELECT 1) AS one LEFT JOIN newest ON true LEFT JOIN dead ON true LEFT JOIN lost ON true

-- name: cancel_task
-- repeatable
-- The task is marked as revoked, and due: a worker discards it at once and stores REVOKED as its result. Claimed messages
-- are left to their consumers.
-- takes: task_id text
WITH touched AS (
    UPDATE kombu_message AS message
    SET revoked = true, available_at = CASE WHEN message.available_at IS NOT NULL THEN now() END
    WHERE message.task_id = %(task_id)s AND message.visible
    RETURNING message.queue_id
)
SELECT
    (SELECT count(*) FROM touched),
    -- include: wake_sleepers

-- name: dead_letters
-- The oldest first. A condition that is null is met by all. `names` are spellings of the task's.
-- takes: ids bigint[], queue text, reason text, age_s float, names text[], limit bigint
SELECT dead.id, dead.died_at, dead.queue, dead.task_id, dead.tenant_id, dead.failures, dead.reason,
    octet_length(dead.payload)
FROM kombu_dead_letter AS dead
WHERE (%(ids)s IS NULL OR dead.id = ANY (%(ids)s))
  AND (%(queue)s IS NULL OR dead.queue = %(queue)s)
  AND (%(reason)s IS NULL OR dead.reason = %(reason)s)
  AND (%(age_s)s IS NULL OR dead.died_at < now() - %(age_s)s * interval '1 second')
  AND (%(names)s IS NULL OR
    -- include: name_in_payload
    = ANY (%(names)s))
ORDER BY dead.died_at, dead.id
LIMIT %(limit)s

-- name: dead_letter_names
-- takes: ids bigint[]
SELECT dead.id,
    -- include: name_in_payload
FROM kombu_dead_letter AS dead WHERE dead.id = ANY (%(ids)s)

-- name: dead_letter_payload
-- takes: id bigint
SELECT dead.payload FROM kombu_dead_letter AS dead WHERE dead.id = %(id)s

-- name: requeue_dead_letters
-- Dead letters become new messages of their queues, without failures; not those whose queue no longer exists. Returns the
-- ids of those that did.
-- takes: ids bigint[], priorities smallint[], flow_keys text[], in_orders boolean[]
WITH chosen AS MATERIALIZED (
    SELECT dead.*, given.priority, given.flow_key, given.in_order, queue.id AS queue_id, queue.fair
    FROM unnest(%(ids)s, %(priorities)s, %(flow_keys)s, %(in_orders)s) AS given (id, priority, flow_key, in_order)
    JOIN kombu_dead_letter AS dead ON dead.id = given.id
    JOIN kombu_queue AS queue ON queue.name = dead.queue
    WHERE dead.id = ANY (%(ids)s)
    ORDER BY dead.id
    FOR UPDATE OF dead
), touched AS (
    -- include: insert_message
    SELECT chosen.queue_id, chosen.payload, chosen.priority, chosen.task_id, chosen.tenant_id,
        CASE WHEN chosen.fair THEN now() END, NULL,
        CASE WHEN chosen.fair THEN hashtextextended(chosen.flow_key, 0) END, NULL,
        CASE WHEN chosen.fair THEN chosen.in_order END
    FROM chosen
    RETURNING queue_id
), gone AS (
    DELETE FROM kombu_dead_letter AS dead WHERE dead.id = ANY (ARRAY(SELECT chosen.id FROM chosen))
    RETURNING dead.id
)
SELECT
    (SELECT coalesce(array_agg(gone.id ORDER BY gone.id), '{}') FROM gone),
    -- include: wake_sleepers

-- name: delete_dead_letters
-- takes: ids bigint[]
WITH gone AS (
    DELETE FROM kombu_dead_letter AS dead WHERE dead.id = ANY (%(ids)s) RETURNING dead.id
)
SELECT count(*) FROM gone

-- name: count_taken_by_stock
-- What stock consumers took longer ago than that. They mark a message and never delete it; nothing records whether its
-- task ran. By stock's own clock, which is the publishers' local time.
-- takes: age_s float
SELECT queue.name, count(*)
FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = message.queue_id
WHERE NOT message.visible AND message.consumer_id IS NULL
  AND coalesce(message."timestamp", message.enqueued_at) < now() - %(age_s)s * interval '1 second'
GROUP BY queue.name
ORDER BY queue.name

-- name: delete_taken_by_stock
-- takes: age_s float, limit bigint
WITH gone AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(
        SELECT candidate.id FROM kombu_message AS candidate
        WHERE NOT candidate.visible AND candidate.consumer_id IS NULL
          AND coalesce(candidate."timestamp", candidate.enqueued_at) < now() - %(age_s)s * interval '1 second'
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING message.id
)
SELECT count(*) FROM gone
