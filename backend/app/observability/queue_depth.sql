-- What is in the queues: what a consumer could take now (and how old the oldest of that is), what is not yet due, what
-- consumers hold. Counting stops at %(cap)s a queue and kind: the gauge then says "at least so many", and no scrape reads
-- a whole backlog. Everything goes by the broker's own indexes. Queues are named by the caller, because kombu_queue also
-- has one row for the remote control of every worker.
SELECT
    queue.name,
    (
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL
            LIMIT %(cap)s
        ) AS counted
    ) + (
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at <= now()
            LIMIT %(cap)s
        ) AS counted
    ) AS ready,
    (
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at > now()
            LIMIT %(cap)s
        ) AS counted
    ) AS delayed,
    (
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.consumer_id IS NOT NULL AND message.queue_id = queue.id
            LIMIT %(cap)s
        ) AS counted
    ) AS claimed,
    coalesce(extract(epoch FROM now() - least(
        (
            SELECT min(first.enqueued_at)
            FROM generate_series(0, 9) AS priority
            CROSS JOIN LATERAL (
                SELECT message.enqueued_at FROM public.kombu_message AS message
                WHERE message.queue_id = queue.id AND message.priority = priority AND message.visible
                  AND message.available_at IS NULL
                ORDER BY message.id + 0
                LIMIT 1
            ) AS first
        ),
        (
            SELECT message.available_at FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at <= now()
            ORDER BY message.available_at
            LIMIT 1
        )
    )), 0)::float AS oldest_s
FROM public.kombu_queue AS queue
WHERE queue.name = ANY(%(queues)s)
