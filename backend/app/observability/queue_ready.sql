-- Messages that a consumer could take now, per queue, on the tables of the stock transport.
-- Counting stops at %(cap)s a queue: the gauge then says "at least so many", and no scrape reads a whole backlog.
-- Of delivered messages, which the stock transport keeps for ever (visible = false), it reads none: it goes by
-- ix_kombu_message_visible. Queues are named by the caller, because kombu_queue also has one row for the remote
-- control of every worker that ever was.
SELECT queue.name, ready.messages
FROM public.kombu_queue AS queue
CROSS JOIN LATERAL (
    SELECT count(*) AS messages
    FROM (
        SELECT
        FROM public.kombu_message AS message
        WHERE message.queue_id = queue.id AND message.visible
        LIMIT %(cap)s
    ) AS counted
) AS ready
WHERE queue.name = ANY(%(queues)s)
