-- Attempts at tasks that did not simply succeed.

-- name: record_attempts
-- The commit is not waited for: a crash of the server forgets the attempts of its last moments, and no result.
-- takes: attempts json
WITH recorded AS (
    INSERT INTO celery_attempt (
        task_id, state, name, queue, tenant_id, worker, retries, published_at, due_at, started_at, ended_at, error, traceback
    )
    SELECT
        one.task_id, one.state, one.name, one.queue, one.tenant_id, one.worker, one.retries, to_timestamp(one.published_at),
        to_timestamp(one.due_at), to_timestamp(one.started_at), to_timestamp(one.ended_at), one.error, one.traceback
    FROM json_to_recordset(%(attempts)s) AS one (
        task_id text, state text, name text, queue text, tenant_id uuid, worker text, retries integer, published_at float,
        due_at float, started_at float, ended_at float, error text, traceback text
    )
)
SELECT set_config('synchronous_commit', 'off', true)

-- name: remember_lost
-- Tasks that a consumer reported as running before it died, and that will not run again: before its claims are released, a
-- task without a message was acknowledged before it ran, and one whose end is not stored has not ended, as far as is known.
-- takes: ids text[], names text[], ages_s float[], worker text
WITH reported AS MATERIALIZED (
    SELECT one.* FROM unnest(%(ids)s, %(names)s, %(ages_s)s) AS one (task_id, name, age_s)
)
-- include: remember
SELECT
    reported.task_id, 'lost', reported.name, meta.queue, meta.tenant_id, %(worker)s, meta.published_at,
    now() - reported.age_s * interval '1 second', now(), 'acknowledged early'
FROM reported LEFT JOIN LATERAL (
    SELECT stored.* FROM celery_taskmeta AS stored WHERE stored.task_id = reported.task_id OFFSET 0
) AS meta ON true
LEFT JOIN LATERAL (
    SELECT message.id FROM kombu_message AS message WHERE message.task_id = reported.task_id AND message.visible LIMIT 1
) AS waiting ON true
LEFT JOIN LATERAL (
    SELECT message.id FROM kombu_message AS message WHERE message.task_id = reported.task_id AND NOT message.visible LIMIT 1
) AS claimed ON true
WHERE (meta.status IN ('SUCCESS', 'FAILURE', 'REVOKED', 'REJECTED', 'IGNORED')) IS NOT TRUE
  AND waiting.id IS NULL AND claimed.id IS NULL

-- name: drop_old_attempts
-- Looks at the `batch` oldest attempts, and deletes those that were recorded more than `seconds` ago, and those that are not
-- among the newest `rows`. Concurrent runs delete none twice. Returns how many were deleted.
-- takes: seconds float, rows bigint, batch bigint
WITH gone AS (
    DELETE FROM celery_attempt AS attempt
    WHERE attempt.id = ANY (ARRAY(
        SELECT candidate.id FROM celery_attempt AS candidate ORDER BY candidate.id LIMIT %(batch)s
    )) AND (
        attempt.recorded_at < now() - %(seconds)s * interval '1 second'
        OR attempt.id <= (SELECT max(newest.id) FROM celery_attempt AS newest) - %(rows)s
    )
    RETURNING attempt.id
)
SELECT count(*) FROM gone
