-- What workers have counted, as the console shows it.

-- name: view_minutes
-- What ended and began in each minute, of one queue or of all, the oldest first; without the minutes in which nothing did.
-- takes: since timestamptz, queue text
SELECT
    gone.minute,
    -- include: sum_counts
FROM celery_minute AS gone
WHERE gone.minute >= %(since)s AND (%(queue)s IS NULL OR gone.queue = %(queue)s)
GROUP BY gone.minute
ORDER BY gone.minute

-- name: view_depths
-- How many messages waited in a queue, and for how long the oldest had, as each minute began.
-- takes: since timestamptz, queue text
SELECT depth.minute, depth.waiting, depth.oldest_s
FROM celery_depth AS depth
WHERE depth.minute >= %(since)s AND depth.queue = %(queue)s
ORDER BY depth.minute

-- name: view_outcomes
-- How attempts at each task ended in a time: those that succeeded or failed, how many failed and since which minute, and how
-- long they ran, by classes. Only the tasks with the most runs, `most` of them.
-- takes: since timestamptz, before timestamptz, most integer
SELECT
    gone.name, sum(gone.done + gone.failed), sum(gone.failed), min(gone.minute) FILTER (WHERE gone.failed > 0),
    -- include: sum_of_runs
FROM celery_minute AS gone
WHERE gone.minute >= %(since)s AND gone.minute < %(before)s AND gone.name <> ''
GROUP BY gone.name
ORDER BY 2 DESC, gone.name
LIMIT %(most)s
