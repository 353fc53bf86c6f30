-- For how many seconds the oldest message of the queues has been ready; 0 without one. celery_monitor may ask it.
SELECT coalesce(extract(epoch FROM now() - min(least(untimed.since, timed.since))), 0)::float
FROM kombu_queue AS queue
CROSS JOIN LATERAL (
    SELECT min(first.enqueued_at) AS since
    FROM generate_series(0, 9) AS lane (priority)
    CROSS JOIN LATERAL (
        SELECT message.enqueued_at FROM kombu_message AS message
        WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL
          AND message.priority = lane.priority
        ORDER BY message.id + 0
        LIMIT 1
    ) AS first
) AS untimed
CROSS JOIN LATERAL (
    SELECT min(first.available_at) AS since
    FROM (
        SELECT message.available_at FROM kombu_message AS message
        WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NOT NULL
          AND message.available_at <= now()
        ORDER BY message.available_at
        LIMIT 1
    ) AS first
) AS timed
WHERE queue.name IN (QUEUES)
