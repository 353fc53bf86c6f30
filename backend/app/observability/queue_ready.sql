-- Messages that a consumer could take now, per queue: what waits, and what was due and is not taken yet.
-- Counting stops at %(cap)s a queue: the gauge then says "at least so many", and no scrape reads a whole backlog.
-- Of claimed messages and of those with an ETA it reads none: it goes by ix_kombu_message_ready and
-- ix_kombu_message_timed. Queues are named by the caller, because kombu_queue also has one row for the remote control
-- of every worker.
SELECT queue.name, ready.messages
FROM public.kombu_queue AS queue
CROSS JOIN LATERAL (
    SELECT count(*) AS messages
    FROM (
        (
            SELECT
            FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL
            LIMIT %(cap)s
        )
        UNION ALL
        (
            SELECT
            FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at <= now()
            LIMIT %(cap)s
        )
    ) AS counted
) AS ready
WHERE queue.name = ANY(%(queues)s)
