-- What is remembered of ended tasks beside their results. Each statement reads at most so many rows as its limits say.

-- name: view_ended_of_tenant
-- As `view_ended`, of one tenant, through an index of its own.
-- takes: tenant uuid, before timestamp, before_id bigint, statuses text[], task text, queue text, since timestamp,
--   scanned integer, limit integer
SELECT
    -- include: ended_columns
FROM (
    SELECT candidate.* FROM celery_taskmeta AS candidate
    WHERE candidate.tenant_id = %(tenant)s AND candidate.date_done <= %(before)s
      AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
      AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
    ORDER BY candidate.date_done DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS meta
WHERE meta.status = ANY (%(statuses)s) AND
    -- include: ended_filter
LIMIT %(limit)s

-- name: view_ended_of_tenant_end
-- The last of the results that `view_ended_of_tenant` reads; no row if there are fewer than `scanned`.
-- takes: tenant uuid, before timestamp, before_id bigint, since timestamp, scanned integer
SELECT candidate.date_done, candidate.id FROM celery_taskmeta AS candidate
WHERE candidate.tenant_id = %(tenant)s AND candidate.date_done <= %(before)s
  AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
  AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
ORDER BY candidate.date_done DESC, candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_failed
-- As `view_ended`, of tasks that did not succeed, through an index of these alone; of each status at most `scanned` are read.
-- takes: before timestamp, before_id bigint, statuses text[], task text, queue text, since timestamp, scanned integer,
--   limit integer
SELECT
    -- include: ended_columns
FROM (
    -- include: failed
    ORDER BY one.date_done DESC, one.id DESC
    LIMIT %(scanned)s
) AS meta
WHERE
    -- include: ended_filter
LIMIT %(limit)s

-- name: view_failed_end
-- The last of the results that `view_failed` reads; no row if there are fewer than `scanned`.
-- takes: before timestamp, before_id bigint, statuses text[], since timestamp, scanned integer
SELECT one.date_done, one.id
FROM (
    -- include: failed
) AS one
ORDER BY one.date_done DESC, one.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_failed_of_tenant
-- As `view_failed`, of one tenant, through an index of its own.
-- takes: tenant uuid, before timestamp, before_id bigint, statuses text[], task text, queue text, since timestamp,
--   scanned integer, limit integer
SELECT
    -- include: ended_columns
FROM (
    -- include: failed_of_tenant
    ORDER BY one.date_done DESC, one.id DESC
    LIMIT %(scanned)s
) AS meta
WHERE
    -- include: ended_filter
LIMIT %(limit)s

-- name: view_failed_of_tenant_end
-- The last of the results that `view_failed_of_tenant` reads; no row if there are fewer than `scanned`.
-- takes: tenant uuid, before timestamp, before_id bigint, statuses text[], since timestamp, scanned integer
SELECT one.date_done, one.id
FROM (
    -- include: failed_of_tenant
) AS one
ORDER BY one.date_done DESC, one.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_attempts
-- Attempts that ended a task of which no result is kept, the last recorded first: its result was ignored, or has expired. Of a
-- lost consumer, what was lost with it.
-- takes: before bigint, states text[], task text, queue text, since timestamptz, until timestamptz, consumer bigint,
--   scanned integer, limit integer
SELECT attempt.id, attempt.task_id,
    -- include: attempt_columns
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate
    WHERE candidate.id < %(before)s
    ORDER BY candidate.id DESC
    LIMIT %(scanned)s
) AS attempt
WHERE
    -- include: attempt_filter
  AND (%(consumer)s IS NULL OR EXISTS (
      SELECT FROM kombu_lost_consumer AS lost
      WHERE lost.id = %(consumer)s AND lost.name = attempt.worker
        AND attempt.recorded_at BETWEEN lost.started_at AND lost.lost_at
  ))
LIMIT %(limit)s

-- name: view_attempts_end
-- The last of the attempts that `view_attempts` reads; no row if there are fewer than `scanned`.
-- takes: before bigint, scanned integer
SELECT candidate.id, candidate.recorded_at FROM celery_attempt AS candidate
WHERE candidate.id < %(before)s
ORDER BY candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_attempts_of_tenant
-- The same of one tenant, through an index of its own.
-- takes: tenant uuid, before bigint, states text[], task text, queue text, since timestamptz, until timestamptz,
--   scanned integer, limit integer
SELECT attempt.id, attempt.task_id,
    -- include: attempt_columns
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate
    WHERE candidate.tenant_id = %(tenant)s AND candidate.id < %(before)s
    ORDER BY candidate.id DESC
    LIMIT %(scanned)s
) AS attempt
WHERE
    -- include: attempt_filter
LIMIT %(limit)s

-- name: view_attempts_of_tenant_end
-- The last of the attempts that `view_attempts_of_tenant` reads; no row if there are fewer than `scanned`.
-- takes: tenant uuid, before bigint, scanned integer
SELECT candidate.id, candidate.recorded_at FROM celery_attempt AS candidate
WHERE candidate.tenant_id = %(tenant)s AND candidate.id < %(before)s
ORDER BY candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_attempts_of_task
-- The attempts that are remembered of one task, the last first.
-- takes: task_id text, limit integer
SELECT attempt.id, attempt.task_id,
    -- include: attempt_columns
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate
    WHERE candidate.task_id = %(task_id)s
    ORDER BY candidate.id + 0 DESC
    LIMIT %(limit)s
) AS attempt
ORDER BY attempt.ended_at DESC, attempt.id DESC  -- a retry may be stored before what it repeats

-- name: view_unregistered
-- The names of tasks that some worker did not know, of the newest `cap` attempts.
-- takes: cap integer
SELECT DISTINCT attempt.name
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate ORDER BY candidate.id DESC LIMIT %(cap)s
) AS attempt
WHERE attempt.error = 'NotRegistered' AND attempt.name IS NOT NULL
LIMIT 1000

-- name: view_failures
-- Of the newest `cap` attempts, those that failed, were retried or lost since a time, by task and error.
-- takes: since timestamptz, cap integer, groups integer
SELECT attempt.name, attempt.error, count(*) FILTER (WHERE attempt.state = 'failed'),
    count(*) FILTER (WHERE attempt.state = 'retried'), count(*) FILTER (WHERE attempt.state = 'lost'),
    min(attempt.recorded_at), max(attempt.recorded_at), count(DISTINCT attempt.tenant_id)
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate ORDER BY candidate.id DESC LIMIT %(cap)s
) AS attempt
WHERE attempt.recorded_at >= %(since)s AND attempt.state IN ('failed', 'retried', 'lost')
GROUP BY attempt.name, attempt.error
ORDER BY count(*) DESC, max(attempt.recorded_at) DESC
LIMIT %(groups)s
