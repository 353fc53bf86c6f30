-- Messages that a consumer could take now, per queue, on the tables of the stock transport.
-- Counting stops at %(cap)s a queue: the gauge then says "at least so many", and no scrape reads a whole backlog.
-- Of delivered messages, which the stock transport keeps for ever (visible = false), it reads none: it goes by
-- ix_kombu_message_visible. PostgreSQL 16, a million delivered messages: 0.1 ms. With a million that wait in one queue
-- it still stops at the cap there, but the index does not know of queues, and to count another queue takes 0.3 to
-- 0.5 s: the statement timeout bounds it, and then there is no number. Queues are named by the caller, because kombu_queue also has one row for the remote
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
