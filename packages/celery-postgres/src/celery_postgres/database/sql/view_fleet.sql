-- Workers, beats and schedules as the console shows them.

-- name: view_workers
-- The processes that consume, with what they report and consume; how long ago the heartbeat was, and whether the session that
-- shows its life still holds its lock (null if it never had one of its own). What they consume is joined once: 200 looks at 300
-- queues are a millisecond for 30 workers.
WITH consumed AS MATERIALIZED (
    SELECT subscription.consumer_id, array_agg(queue.name ORDER BY queue.name) AS queues
    FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    GROUP BY subscription.consumer_id
), held AS MATERIALIZED (
    SELECT lock.pid, lock.classid::bigint << 32 | lock.objid::bigint AS key
    FROM pg_locks AS lock
    WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted
      AND lock.database = (SELECT one.oid FROM pg_database AS one WHERE one.datname = current_database())
)
SELECT
    consumer.id, consumer.hostname, consumer.pid, consumer.started_at, consumer.beat, consumed.queues,
    CASE WHEN consumer.locked OR consumer.session_key IS NOT NULL THEN EXISTS (
        SELECT FROM held
        WHERE held.key = coalesce(consumer.session_key, hashtextextended('kombu_consumer', consumer.id))
          AND held.pid = coalesce(consumer.session_pid, held.pid)
    ) END, consumer.name, consumer.pool, consumer.slots, consumer.app_version, consumer.draining, consumer.busy,
    extract(epoch FROM now() - consumer.beat_at)::float, consumer.running
FROM kombu_consumer AS consumer LEFT JOIN consumed ON consumed.consumer_id = consumer.id
ORDER BY consumer.hostname, consumer.id
LIMIT 2000

-- name: view_schedules
-- The entries of the schedule: what a beat last reported of each, and whether one that is known sends it.
-- takes: limit integer
SELECT
    entry.name, entry.last_run_at, entry.runs, entry.task, entry.schedule, entry.next_run_at, entry.enabled, entry.sent_at,
    entry.last_task_id, entry.requested_at, coalesce(entry.name IN (
        SELECT unnest(beat.entries) FROM celery_beat AS beat  -- hashed: 300 entries in 300 places are 90,000 comparisons
    ), false), greatest(entry.last_run_at, entry.counts_from), extract(epoch FROM now() - entry.next_run_at)::float
FROM celery_beat_entry AS entry
ORDER BY entry.name
LIMIT %(limit)s

-- name: view_beats
-- The beats of the last day, the ones seen last first, and how many seconds ago.
-- takes: limit integer
SELECT
    beat.hostname, beat.pid, beat.timezone, beat.started_at, beat.stopped_at,
    extract(epoch FROM now() - beat.seen_at)::float, cardinality(beat.entries)
FROM celery_beat AS beat
WHERE beat.seen_at > now() - interval '1 day'
ORDER BY beat.seen_at DESC
LIMIT %(limit)s

-- name: view_sent
-- Where the messages of these tasks are.
-- takes: task_ids text[]
SELECT message.task_id, queue.name, queue.paused, message.visible
FROM unnest(%(task_ids)s) AS asked (task_id)
CROSS JOIN LATERAL (
    SELECT found.task_id, found.queue_id, found.visible FROM kombu_message AS found
    WHERE found.task_id = asked.task_id AND found.visible
    UNION ALL
    SELECT found.task_id, found.queue_id, found.visible FROM kombu_message AS found
    WHERE found.task_id = asked.task_id AND NOT found.visible
    LIMIT 1
) AS message
JOIN kombu_queue AS queue ON queue.id = message.queue_id

-- name: view_sent_ended
-- How these tasks ended. In UTC.
-- takes: task_ids text[]
SELECT ended.task_id, ended.status, ended.date_done, ended.started_at
FROM unnest(%(task_ids)s) AS asked (task_id)
CROSS JOIN LATERAL (
    SELECT meta.task_id, meta.status, meta.date_done, meta.started_at FROM celery_taskmeta AS meta
    WHERE meta.task_id = asked.task_id
    LIMIT 1
) AS ended
