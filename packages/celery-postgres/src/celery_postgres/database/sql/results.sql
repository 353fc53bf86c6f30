-- The states and results of tasks, and saved groups.

-- name: record
-- repeatable
-- Stores the outcomes of several tasks in one commit: their states, the chord parts that they are, and the
-- acknowledgement of their messages. A message is deleted in the transaction that stores its task's result, or not at
-- all.
--
-- Each table is written in the order of its keys, so two batches never deadlock. A chord part that is already counted
-- is not counted again. Acknowledgements are fenced as in `claim`. The listeners that wait for a task are notified when
-- its state is final; the payload holds slot numbers that only the listener itself can interpret. The statement skips
-- waiter rows that another transaction has locked, so no result waits for that transaction: such a listener polls.
-- A stored SUCCESS stays, as in Celery's other backends: a second execution (after the failure detector gave up on a
-- live worker) must not undo it. RETRY does not replace FAILURE or REVOKED: Celery stores RETRY after it has published
-- the retry, which may have ended by then.
-- Returns the chords whose last part this was.
-- takes: task_ids text[], statuses text[], results bytea[], dates timestamp[], tracebacks text[], children bytea[],
--   names text[], args bytea[], kwargs bytea[], workers text[], retries integer[], queues text[], tenant_ids uuid[],
--   root_ids text[], parent_ids text[], published_at float[], due_at float[], started_at float[], final boolean[],
--   part_chords text[], part_tasks text[], part_positions integer[], part_statuses text[], part_results bytea[],
--   part_bodies text[], acked_ids bigint[], acked_fences bigint[]
WITH given AS MATERIALIZED (
    SELECT one.*
    FROM unnest(
        %(task_ids)s, %(statuses)s, %(results)s, %(dates)s, %(tracebacks)s, %(children)s, %(names)s, %(args)s,
        %(kwargs)s, %(workers)s, %(retries)s, %(queues)s, %(tenant_ids)s, %(root_ids)s, %(parent_ids)s,
        %(published_at)s, %(due_at)s, %(started_at)s, %(final)s
    ) AS one (
        task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue, tenant_id,
        root_id, parent_id, published_at, due_at, started_at, final
    )
    ORDER BY one.task_id
), stored AS (
    INSERT INTO celery_taskmeta AS meta (
        id, task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue,
        tenant_id, root_id, parent_id, published_at, due_at, started_at
    )
    SELECT
        nextval('task_id_sequence'), given.task_id, given.status, given.result, given.date_done, given.traceback,
        given.children, given.name, given.args, given.kwargs, given.worker, given.retries, given.queue,
        given.tenant_id, given.root_id, given.parent_id, to_timestamp(given.published_at), to_timestamp(given.due_at),
        to_timestamp(given.started_at)
    FROM given
    -- include: unless_it_has_ended
), returned AS MATERIALIZED (
    SELECT one.*
    FROM unnest(
        %(part_chords)s, %(part_tasks)s, %(part_positions)s, %(part_statuses)s, %(part_results)s, %(part_bodies)s
    ) AS one (chord_id, task_id, position, status, result, body)
    ORDER BY one.chord_id, one.task_id
), part AS (
    INSERT INTO celery_chord_part (chord_id, task_id, position, status, result)
    SELECT returned.chord_id, returned.task_id, returned.position, returned.status, returned.result
    FROM returned
    ON CONFLICT (chord_id, task_id) DO NOTHING
    RETURNING chord_id
), counted AS (
    INSERT INTO celery_chord AS chord (id, done, body)
    SELECT part.chord_id, count(*), (
        SELECT returned.body FROM returned WHERE returned.chord_id = part.chord_id LIMIT 1
    )
    FROM part
    GROUP BY part.chord_id
    ORDER BY part.chord_id
    ON CONFLICT (id) DO UPDATE
    SET done = chord.done + excluded.done,
        body = coalesce(chord.body, excluded.body),
        due_at = CASE WHEN chord.done + excluded.done >= chord.size + chord.added THEN now() END
    RETURNING id, due_at
), settled AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (%(acked_ids)s) AND NOT message.visible
      AND ((message.id, message.fence) IN (SELECT * FROM unnest(%(acked_ids)s, %(acked_fences)s))) IS TRUE
),
-- include: awaited
SELECT
    (SELECT array_agg(counted.id) FROM counted WHERE counted.due_at IS NOT NULL),
    -- include: notify_awaited

-- name: notify_waiters
-- Notify the listeners that wait for tasks that have ended, after a commit for which those that registered meanwhile did
-- not poll long enough. It waits for no disk.
-- takes: task_ids text[]
WITH given AS MATERIALIZED (
    SELECT one.task_id, true AS final FROM unnest(%(task_ids)s) AS one (task_id)
),
-- include: awaited
SELECT
    set_config('synchronous_commit', 'off', true),
    -- include: notify_awaited

-- name: record_one
-- repeatable
-- `record` for one state of one task that is not a chord part: every result of a prefork child, and the first result
-- after a quiet moment. Takes 27 us to execute instead of 49: no arrays of one, no empty chord branches.
-- takes: task_id text, status text, result bytea, date_done timestamp, traceback text, children bytea, task_name text,
--   args bytea, kwargs bytea, worker text, retries integer, queue text, tenant_id uuid, root_id text, parent_id text,
--   published_at float, due_at float, started_at float, final boolean, acked_id bigint, acked_fence bigint
WITH
-- include: one_outcome
SELECT count(pg_notify('celery_result_' || awaited.listener, awaited.slot::text)) FROM awaited

-- name: record_and_sleep
-- repeatable
-- `record_one` by the thread that claims next: publishers notify this consumer from now on. A client that has waited for
-- this result may publish its next task before that claim, and would notify nobody: the task would wait for a poll, 2 ms.
-- takes: task_id text, status text, result bytea, date_done timestamp, traceback text, children bytea, task_name text,
--   args bytea, kwargs bytea, worker text, retries integer, queue text, tenant_id uuid, root_id text, parent_id text,
--   published_at float, due_at float, started_at float, final boolean, acked_id bigint, acked_fence bigint,
--   consumer bigint
WITH
-- include: one_outcome
, slept AS (
    UPDATE kombu_subscription AS subscription SET asleep = true, slept_at = now()
    WHERE subscription.consumer_id = %(consumer)s AND NOT subscription.asleep
)
SELECT count(pg_notify('celery_result_' || awaited.listener, awaited.slot::text)) FROM awaited

-- name: result
-- repeatable
-- takes: task_id text
SELECT meta.task_id, meta.status, meta.result, meta.date_done, meta.traceback, meta.children, meta.name, meta.args,
    meta.kwargs, meta.worker, meta.retries, meta.queue
FROM celery_taskmeta AS meta
WHERE meta.task_id = %(task_id)s

-- name: result_or_message
-- repeatable
-- `result`, or else whether the task's newest message still waits. In one snapshot: of a task that ends meanwhile either
-- the message is there or the result.
-- takes: task_id text
WITH stored AS MATERIALIZED (
    SELECT meta.task_id, meta.status, meta.result, meta.date_done, meta.traceback, meta.children, meta.name, meta.args,
        meta.kwargs, meta.worker, meta.retries, meta.queue
    FROM celery_taskmeta AS meta
    WHERE meta.task_id = %(task_id)s
)
SELECT stored.*, NULL::boolean FROM stored
UNION ALL
(
    SELECT message.task_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, message.visible
    FROM (
        SELECT waiting.id, waiting.task_id, waiting.visible FROM kombu_message AS waiting
        WHERE waiting.task_id = %(task_id)s AND waiting.visible
        UNION ALL
        SELECT claimed.id, claimed.task_id, claimed.visible FROM kombu_message AS claimed
        WHERE claimed.task_id = %(task_id)s AND NOT claimed.visible
    ) AS message
    WHERE NOT EXISTS (SELECT FROM stored)
    ORDER BY message.id DESC
    LIMIT 1
)

-- name: results
-- repeatable
-- The rows of the given tasks; tasks without a row are left out.
-- takes: task_ids text[]
SELECT meta.task_id, meta.status, meta.result, meta.date_done, meta.traceback, meta.children, meta.name, meta.args,
    meta.kwargs, meta.worker, meta.retries, meta.queue
FROM celery_taskmeta AS meta
WHERE meta.task_id = ANY (%(task_ids)s)

-- name: result_exists
-- repeatable
-- takes: task_id text
SELECT meta.task_id FROM celery_taskmeta AS meta WHERE meta.task_id = %(task_id)s

-- name: forget_result
-- repeatable
-- takes: task_id text
DELETE FROM celery_taskmeta AS meta WHERE meta.task_id = %(task_id)s

-- name: save_group
-- repeatable
-- takes: group_id text, result bytea, date_done timestamp
SELECT celery_save_group(%(group_id)s, %(result)s, %(date_done)s)

-- name: restore_group
-- repeatable
-- takes: group_id text
SELECT saved.taskset_id, saved.result, saved.date_done
FROM celery_tasksetmeta AS saved
WHERE saved.taskset_id = %(group_id)s

-- name: delete_group
-- repeatable
-- takes: group_id text
DELETE FROM celery_tasksetmeta AS saved WHERE saved.taskset_id = %(group_id)s

-- name: drop_old_results
-- Deletes one batch of results older than `seconds` by the server's clock: a worker whose clock is a day ahead would
-- delete results that were stored a moment ago. Concurrent runs delete different rows. Returns how many were deleted.
-- takes: seconds float, batch bigint
WITH gone AS (
    DELETE FROM celery_taskmeta AS meta
    WHERE meta.id = ANY (ARRAY(
        SELECT candidate.id FROM celery_taskmeta AS candidate
        WHERE candidate.date_done < now() AT TIME ZONE 'UTC' - %(seconds)s * interval '1 second'
        ORDER BY candidate.date_done
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING meta.id
)
SELECT count(*) FROM gone

-- name: drop_old_results_of
-- Looks at one batch of the results older than `seconds`, after (`after_date`, `after_id`) in the order of their dates, and
-- deletes the failures among them, or all others. Rows that it keeps are not looked at again: the caller goes on from the
-- last one, which is returned. No row: there are no more.
-- takes: seconds float, failures boolean, after_date timestamp, after_id bigint, batch bigint
WITH looked AS MATERIALIZED (
    SELECT candidate.id, candidate.date_done
    FROM celery_taskmeta AS candidate
    WHERE candidate.date_done >= %(after_date)s
      AND candidate.date_done < now() AT TIME ZONE 'UTC' - %(seconds)s * interval '1 second'
      AND (candidate.date_done > %(after_date)s OR candidate.id > %(after_id)s)
    ORDER BY candidate.date_done, candidate.id
    LIMIT %(batch)s
), gone AS (
    DELETE FROM celery_taskmeta AS meta
    WHERE meta.id = ANY (ARRAY(
        SELECT old.id FROM celery_taskmeta AS old
        WHERE old.id = ANY (ARRAY(SELECT looked.id FROM looked))
          AND old.date_done < now() AT TIME ZONE 'UTC' - %(seconds)s * interval '1 second'
          AND (old.status IS NOT DISTINCT FROM 'FAILURE') = %(failures)s
        FOR UPDATE SKIP LOCKED
    ))
)
SELECT looked.date_done::text, looked.id FROM looked ORDER BY looked.date_done DESC, looked.id DESC LIMIT 1

-- name: drop_old_groups
-- The shape of a chord's header is kept as long as the chord.
-- takes: seconds float, batch bigint
WITH gone AS (
    DELETE FROM celery_tasksetmeta AS saved
    WHERE saved.id = ANY (ARRAY(
        SELECT candidate.id FROM celery_tasksetmeta AS candidate
        WHERE candidate.date_done < now() AT TIME ZONE 'UTC' - %(seconds)s * interval '1 second'
          AND (SELECT count(*) FROM celery_chord AS chord WHERE chord.id = candidate.taskset_id) = 0
        ORDER BY candidate.date_done
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING saved.id
)
SELECT count(*) FROM gone
