-- name: queue_depth
-- What is in the queues of the broker, whoever consumes them: what a consumer could take now (and how old the oldest of
-- that is), what is not yet due, what consumers hold, and how many consume.
--
-- What it tells does not depend on who asks. The `named` oldest queues have a row each, those in `first` and then
-- those that ever had a consumer of ours before others; the rest is one row, `other`, with the age of its oldest message
-- and the consumers of the queue with work that has the fewest. Without the queues of remote control and events, and
-- others that delete themselves: each worker has some, under names that never come again.
--
-- Counting stops at `cap` a queue and kind: the gauge then says "at least so many", and no scrape reads a whole backlog.
-- Of the rest, each index is read at its first entry of each queue, for `walked` queues at most. Claimed messages are in
-- an index by consumer: it is read once for all queues, and ends at ten times `cap`.
-- takes: first text[], named integer, walked integer, cap integer
WITH RECURSIVE durable AS MATERIALIZED (
    SELECT queue.id, queue.name, queue.name <> 'other' AND row_number() OVER (
        ORDER BY queue.name = 'other', queue.name = ANY(%(first)s) DESC, queue.consumed DESC, queue.id
    ) <= %(named)s AS named
    FROM public.kombu_queue AS queue
    WHERE NOT queue.auto_delete AND right(queue.name, 7) <> '.pidbox' AND NOT starts_with(queue.name, 'celeryev.')
), ready AS (
    SELECT (
        SELECT first.queue_id FROM public.kombu_message AS first
        WHERE first.visible AND first.available_at IS NULL ORDER BY first.queue_id LIMIT 1
    ) AS queue_id
    WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM public.kombu_message AS following
        WHERE following.visible AND following.available_at IS NULL AND following.queue_id > ready.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM ready WHERE ready.queue_id IS NOT NULL
), timed AS (
    SELECT (
        SELECT first.queue_id FROM public.kombu_message AS first
        WHERE first.visible AND first.available_at IS NOT NULL ORDER BY first.queue_id LIMIT 1
    ) AS queue_id
    WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM public.kombu_message AS following
        WHERE following.visible AND following.available_at IS NOT NULL AND following.queue_id > timed.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM timed WHERE timed.queue_id IS NOT NULL
), held AS MATERIALIZED (
    SELECT claim.queue_id, count(*) AS messages
    FROM (
        SELECT message.queue_id FROM public.kombu_message AS message
        WHERE message.consumer_id IS NOT NULL
        LIMIT 10 * %(cap)s
    ) AS claim
    GROUP BY claim.queue_id
), used AS MATERIALIZED (
    (SELECT ready.queue_id FROM ready LIMIT %(walked)s)
    UNION
    (SELECT timed.queue_id FROM timed LIMIT %(walked)s)
    UNION
    SELECT held.queue_id FROM held
), asked AS MATERIALIZED (
    SELECT durable.id, durable.name FROM durable WHERE durable.named
    UNION ALL
    SELECT durable.id, 'other' FROM durable
    WHERE NOT durable.named AND durable.id IN (SELECT used.queue_id FROM used)
    UNION ALL
    SELECT NULL, 'other' WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
), counted AS MATERIALIZED (
    SELECT
        asked.name,
        (
            SELECT count(*) FROM (
                SELECT FROM public.kombu_message AS message
                WHERE message.queue_id = asked.id AND message.visible AND message.available_at IS NULL
                LIMIT %(cap)s
            ) AS part
        ) + (
            SELECT count(*) FROM (
                SELECT FROM public.kombu_message AS message
                WHERE message.queue_id = asked.id AND message.visible AND message.available_at <= now()
                LIMIT %(cap)s
            ) AS part
        ) AS ready,
        (
            SELECT count(*) FROM (
                SELECT FROM public.kombu_message AS message
                WHERE message.queue_id = asked.id AND message.visible AND message.available_at > now()
                LIMIT %(cap)s
            ) AS part
        ) AS delayed,
        (SELECT held.messages FROM held WHERE held.queue_id = asked.id) AS claimed,
        least(
            (
                SELECT min(first.enqueued_at)
                FROM generate_series(0, 9) AS lane (priority)
                CROSS JOIN LATERAL (
                    SELECT message.enqueued_at FROM public.kombu_message AS message
                    WHERE message.queue_id = asked.id AND message.priority = lane.priority AND message.visible
                      AND message.available_at IS NULL
                    ORDER BY message.id + 0
                    LIMIT 1
                ) AS first
            ),
            (
                SELECT message.available_at FROM public.kombu_message AS message
                WHERE message.queue_id = asked.id AND message.visible AND message.available_at <= now()
                ORDER BY message.available_at
                LIMIT 1
            )
        ) AS since,
        (SELECT count(*) FROM public.kombu_subscription AS subscription WHERE subscription.queue_id = asked.id)
            AS consumers
    FROM asked
)
SELECT
    counted.name,
    least(sum(counted.ready), %(cap)s)::bigint AS ready,
    least(sum(counted.delayed), %(cap)s)::bigint AS delayed,
    least(coalesce(sum(counted.claimed), 0), %(cap)s)::bigint AS claimed,
    coalesce(extract(epoch FROM now() - CASE
        WHEN min(counted.since) < now() THEN greatest(min(counted.since), '1970-01-01 00:00+00')
    END), 0)::float AS oldest_s,
    min(counted.consumers) FILTER (WHERE counted.name <> 'other' OR counted.ready > 0) AS consumers
FROM counted
GROUP BY counted.name
ORDER BY counted.name

-- name: dead_letters_by_queue
-- How many dead letters there are by queue, `cap` of the newest at most, and how many of them came in the last 15
-- minutes; those of queues that are not in `queues` together as `other`.
-- takes: queues text[], cap integer
SELECT
    CASE WHEN dead.queue = ANY(%(queues)s) THEN dead.queue ELSE 'other' END,
    count(*),
    count(*) FILTER (WHERE dead.died_at > now() - interval '15 minutes')
FROM (
    SELECT letter.queue, letter.died_at FROM public.kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT %(cap)s
) AS dead
GROUP BY 1

-- name: beat_entries_sent
-- When each of these entries of the schedule was last sent.
-- takes: names text[]
SELECT entry.name, entry.last_run_at FROM public.celery_beat_entry AS entry WHERE entry.name = ANY(%(names)s) ORDER BY 1
