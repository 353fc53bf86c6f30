-- What workers have counted, as the console shows it. Of all queues it is read from the sums, where a minute has a row for each
-- task's name: the rows of an hour are 36,000 with 300 queues.

-- name: view_minutes
-- What ended and began in each minute, of one queue, the oldest first; without the minutes in which nothing did.
-- takes: since timestamptz, queue text
SELECT
    gone.minute,
    -- include: sum_of_waits
FROM (
    SELECT own.*
    FROM generate_series(date_trunc('minute', %(since)s::timestamptz), now(), '1 minute') AS each (minute)
    CROSS JOIN LATERAL (
        SELECT one.* FROM celery_minute AS one
        WHERE one.minute = each.minute AND one.consumer_id = 0 AND one.queue = %(queue)s
        OFFSET 0  -- or a plan joins all minutes
    ) AS own
    UNION ALL
    SELECT own.* FROM celery_minute AS own
    WHERE own.minute >= %(since)s AND own.consumer_id <> 0 AND own.queue = %(queue)s
) AS gone
GROUP BY gone.minute
ORDER BY gone.minute

-- name: view_steps
-- What ended and began in each step of `step_s` seconds, in all queues, the oldest first: from the sums of minutes, which are kept
-- for eight days, and from the hours before them.
-- takes: since timestamptz, step_s float, before timestamptz
WITH
-- include: fresh_minutes
, before (hour, started, done, failed, retried, waited) AS MATERIALIZED (
    SELECT
        gone.hour,
        -- include: sum_of_waits
    FROM celery_hour AS gone
    WHERE gone.hour >= %(since)s AND gone.hour < coalesce(
        (SELECT min(known.minute) FROM celery_minute_sum AS known WHERE known.whole) - interval '59 minutes', 'infinity'
    )
    GROUP BY gone.hour
)
SELECT
    date_bin(%(step_s)s * interval '1 second', gone.minute, %(since)s),
    -- include: sum_of_waits
FROM (
    -- include: whole_minutes
    UNION ALL
    SELECT
        before.hour, before.started::integer, before.done::integer, before.failed::integer, before.retried::integer,
        before.waited::integer[]
    FROM before
) AS gone
GROUP BY 1
ORDER BY 1

-- name: view_steps_of_queue
-- The same of one queue, by a look at each minute and each hour: the rows of all queues are many more.
-- takes: since timestamptz, step_s float, queue text
SELECT
    date_bin(%(step_s)s * interval '1 second', gone.at, %(since)s),
    -- include: sum_of_waits
FROM (
    SELECT own.minute AS at, own.started, own.done, own.failed, own.retried, own.waited
    FROM generate_series(
        (SELECT min(kept.minute) FROM celery_minute AS kept WHERE kept.minute >= %(since)s), now(), interval '1 minute'
    ) AS each (minute)
    CROSS JOIN LATERAL (
        SELECT one.* FROM celery_minute AS one
        WHERE one.minute = each.minute AND one.consumer_id = 0 AND one.queue = %(queue)s
        OFFSET 0  -- or a plan joins all minutes
    ) AS own
    UNION ALL
    SELECT own.minute, own.started, own.done, own.failed, own.retried, own.waited
    FROM celery_minute AS own
    WHERE own.minute >= %(since)s AND own.consumer_id <> 0 AND own.queue = %(queue)s
    UNION ALL
    SELECT own.hour, own.started, own.done, own.failed, own.retried, own.waited
    FROM generate_series(
        (SELECT min(kept.hour) FROM celery_hour AS kept WHERE kept.hour >= %(since)s), now(), interval '1 hour'
    ) AS each (hour)
    CROSS JOIN LATERAL (
        SELECT one.* FROM celery_hour AS one WHERE one.hour = each.hour AND one.queue = %(queue)s OFFSET 0
    ) AS own
) AS gone
GROUP BY 1
ORDER BY 1

-- name: view_depths
-- How many messages waited in a queue, and for how long the oldest had, as each step of `step_s` seconds began, or in the first
-- of its minutes that is known.
-- takes: since timestamptz, step_s float, queue text
SELECT DISTINCT ON (date_bin(%(step_s)s * interval '1 second', depth.minute, %(since)s))
    date_bin(%(step_s)s * interval '1 second', depth.minute, %(since)s), depth.waiting, depth.oldest_s
FROM generate_series(
    (SELECT min(kept.minute) FROM celery_depth AS kept WHERE kept.minute >= %(since)s), now(), interval '1 minute'
) AS each (minute)
CROSS JOIN LATERAL (
    SELECT one.* FROM celery_depth AS one WHERE one.minute = each.minute AND one.queue = %(queue)s OFFSET 0
) AS depth
ORDER BY date_bin(%(step_s)s * interval '1 second', depth.minute, %(since)s), depth.minute

-- name: view_counts
-- What ended and began in each minute, in all queues together; and how attempts at each task ended since `lately`, of the
-- tasks with the most runs, `most` of them. A row is of a minute or of a name.
-- takes: since timestamptz, before timestamptz, lately timestamptz, most integer
WITH
-- include: fresh_minutes
SELECT
    gone.minute, NULL AS name, NULL AS first_failure,
    -- include: sum_of_waits
    , NULL
FROM (
    -- include: whole_minutes
) AS gone
GROUP BY gone.minute
UNION ALL
(
    SELECT
        NULL, gone.name, min(gone.minute) FILTER (WHERE gone.failed > 0),
        sum(gone.started), sum(gone.done), sum(gone.failed), sum(gone.retried), NULL,
        -- include: sum_of_runs
    FROM (
        -- include: named_minutes
    ) AS gone
    WHERE gone.minute >= %(lately)s AND gone.name <> ''
    GROUP BY gone.name
    ORDER BY sum(gone.done + gone.failed) DESC, gone.name
    LIMIT %(most)s
)

-- name: view_outcomes
-- How attempts at each task ended in a time: those that succeeded or failed, how many failed and since which minute, and how
-- long they ran, by classes. Only the tasks with the most runs, `most` of them.
-- takes: since timestamptz, before timestamptz, most integer
WITH
-- include: fresh_minutes
SELECT
    gone.name, sum(gone.done + gone.failed), sum(gone.failed), min(gone.minute) FILTER (WHERE gone.failed > 0),
    -- include: sum_of_runs
FROM (
    -- include: named_minutes
) AS gone
WHERE gone.name <> ''
GROUP BY gone.name
ORDER BY 2 DESC, gone.name
LIMIT %(most)s
