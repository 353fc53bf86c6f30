-- What consumers count: tasks that started and ended, by minute, queue and name.

-- name: write_minutes
-- Write what consumers of one process have counted so far: whole rows, so that a repetition changes nothing. `minutes` are
-- numbers of minutes since 1970; `counts` has four numbers for each row, `waited` and `ran` sixteen. Returns the database's
-- clock. The commit is not waited for: the next one writes the same rows again, or those of the next minute.
-- repeatable
-- takes: minutes bigint[], consumers bigint[], queues text[], names text[], counts integer[], waited integer[],
--   ran integer[]
WITH written AS (
    INSERT INTO celery_minute AS counted (
        minute, consumer_id, queue, name, started, done, failed, retried, waited, ran
    )
    SELECT
        to_timestamp(given.minute * 60), given.consumer_id, given.queue, given.name,
        (%(counts)s)[given.n * 4 - 3], (%(counts)s)[given.n * 4 - 2], (%(counts)s)[given.n * 4 - 1],
        (%(counts)s)[given.n * 4],
        (%(waited)s)[given.n * 16 - 15 : given.n * 16], (%(ran)s)[given.n * 16 - 15 : given.n * 16]
    FROM unnest(%(minutes)s, %(consumers)s, %(queues)s, %(names)s)
        WITH ORDINALITY AS given (minute, consumer_id, queue, name, n)
    ON CONFLICT (minute, consumer_id, queue, name) DO UPDATE
    SET started = excluded.started, done = excluded.done, failed = excluded.failed, retried = excluded.retried,
        waited = excluded.waited, ran = excluded.ran
)
SELECT extract(epoch FROM clock_timestamp())::float, set_config('synchronous_commit', 'off', true)

-- name: merge_minutes
-- Add up the rows of all consumers for minutes that ended long ago, at most `limit` of them. No lock of another run is waited
-- for. Returns how many were added up.
-- takes: after_s float, limit bigint
WITH old AS MATERIALIZED (
    SELECT own.minute, own.consumer_id, own.queue, own.name
    FROM celery_minute AS own
    WHERE own.consumer_id <> 0 AND own.minute < now() - %(after_s)s * interval '1 second'
    ORDER BY own.minute
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM celery_minute AS own
    USING old
    WHERE own.minute = old.minute AND own.consumer_id = old.consumer_id AND own.queue = old.queue AND own.name = old.name
      AND own.consumer_id <> 0 AND own.minute < now() - %(after_s)s * interval '1 second'  -- or a plan reads all minutes
    RETURNING own.*
), kept AS (
    INSERT INTO celery_minute AS kept (
        minute, consumer_id, queue, name, started, done, failed, retried, waited, ran
    )
    SELECT
        gone.minute, 0, gone.queue, gone.name,
        -- include: sum_counts
    FROM gone
    GROUP BY gone.minute, gone.queue, gone.name
    ORDER BY gone.minute, gone.queue, gone.name  -- so that two runs never wait for each other
    ON CONFLICT (minute, consumer_id, queue, name) DO UPDATE
    SET
        -- include: add_counts
)
SELECT count(*) FROM gone

-- name: minutes_to_hours
-- Add up the minutes of hours that ended long ago, at most `limit` rows. Returns how many were added up.
-- takes: after_s float, limit bigint
WITH old AS MATERIALIZED (
    SELECT own.minute, own.consumer_id, own.queue, own.name
    FROM celery_minute AS own
    WHERE own.minute < now() - %(after_s)s * interval '1 second'
    ORDER BY own.minute
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM celery_minute AS own
    USING old
    WHERE own.minute = old.minute AND own.consumer_id = old.consumer_id AND own.queue = old.queue AND own.name = old.name
      AND own.minute < now() - %(after_s)s * interval '1 second'
    RETURNING own.*
), kept AS (
    INSERT INTO celery_hour AS kept (hour, queue, name, started, done, failed, retried, waited, ran)
    SELECT
        date_trunc('hour', gone.minute, 'UTC'), gone.queue, gone.name,
        -- include: sum_counts
    FROM gone
    GROUP BY date_trunc('hour', gone.minute, 'UTC'), gone.queue, gone.name
    ORDER BY date_trunc('hour', gone.minute, 'UTC'), gone.queue, gone.name
    ON CONFLICT (hour, queue, name) DO UPDATE
    SET
        -- include: add_counts
)
SELECT count(*) FROM gone

-- name: drop_hours
-- Delete the hours that ended before, at most `limit` rows. Returns how many were deleted.
-- takes: after_s float, limit bigint
WITH old AS MATERIALIZED (
    SELECT own.hour, own.queue, own.name
    FROM celery_hour AS own
    WHERE own.hour < now() - %(after_s)s * interval '1 second'
    ORDER BY own.hour
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM celery_hour AS own
    USING old
    WHERE own.hour = old.hour AND own.queue = old.queue AND own.name = old.name
      AND own.hour < now() - %(after_s)s * interval '1 second'
    RETURNING own.hour
)
SELECT count(*) FROM gone

-- name: write_depths
-- Note how much waits in these queues, at most `cap` of each, unless another consumer has in this minute. Not of internal
-- queues.
-- takes: queues bigint[], cap integer
INSERT INTO celery_depth (minute, queue, waiting, oldest_s)
SELECT date_trunc('minute', now()), queue.name, least(%(cap)s,
    -- include: ready_count
), extract(epoch FROM now() -
    -- include: ready_since
)
FROM kombu_queue AS queue
WHERE queue.id = ANY (%(queues)s) AND NOT
    -- include: is_internal
  AND NOT EXISTS (
    SELECT FROM celery_depth AS known WHERE known.minute = date_trunc('minute', now()) AND known.queue = queue.name
  )
ORDER BY queue.name
ON CONFLICT DO NOTHING

-- name: drop_depths
-- Delete what was noted before, at most `limit` rows. Returns how many were deleted.
-- takes: after_s float, limit bigint
WITH old AS MATERIALIZED (
    SELECT own.minute, own.queue
    FROM celery_depth AS own
    WHERE own.minute < now() - %(after_s)s * interval '1 second'
    ORDER BY own.minute
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM celery_depth AS own
    USING old
    WHERE own.minute = old.minute AND own.queue = old.queue AND own.minute < now() - %(after_s)s * interval '1 second'
    RETURNING own.minute
)
SELECT count(*) FROM gone

-- name: drop_minute_sums
-- Delete the sums of minutes that ended before, by name or (`whole`) of all names, at most `limit` rows. Returns how many were
-- deleted.
-- takes: after_s float, whole boolean, limit bigint
WITH old AS MATERIALIZED (
    SELECT own.minute, own.name
    FROM celery_minute_sum AS own
    WHERE own.whole = %(whole)s AND own.minute < now() - %(after_s)s * interval '1 second'
    ORDER BY own.minute
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM celery_minute_sum AS own
    USING old
    WHERE own.whole = %(whole)s AND own.minute = old.minute AND own.name = old.name
      AND own.minute < now() - %(after_s)s * interval '1 second'
    RETURNING own.minute
)
SELECT count(*) FROM gone
