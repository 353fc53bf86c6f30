-- Lists of tasks as the console shows them: pages by keyset, and each statement reads at most `scanned` rows of a table.

-- name: view_messages
-- Messages in any state, the last published first. Reads at most `scanned` of them, whatever the conditions leave out.
-- takes: before bigint, state text, tenant uuid, since timestamptz, until timestamptz, names text[], scanned integer,
--   limit integer
SELECT
    -- include: message_columns
FROM (
    SELECT candidate.* FROM kombu_message AS candidate
    WHERE candidate.id < %(before)s
    ORDER BY candidate.id DESC
    LIMIT %(scanned)s
) AS message
WHERE
    -- include: message_filter
LIMIT %(limit)s

-- name: view_messages_end
-- The last of the messages that `view_messages` reads; no row if there are fewer than `scanned`.
-- takes: before bigint, scanned integer
SELECT candidate.id, candidate.enqueued_at FROM kombu_message AS candidate
WHERE candidate.id < %(before)s
ORDER BY candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_messages_of_queue
-- The same of one queue, through its own indexes: of each priority, of those whose time has come (all that is ready in a
-- fair queue), of those whose time has not, and of the claimed ones at most `scanned` are read.
-- takes: queue text, before bigint, state text, tenant uuid, since timestamptz, until timestamptz, names text[],
--   scanned integer, limit integer
WITH queue AS MATERIALIZED (
    SELECT one.id FROM kombu_queue AS one WHERE one.name = %(queue)s
)
SELECT
    -- include: message_columns
FROM (
    -- include: messages_of_queue
    ORDER BY candidate.id DESC
    LIMIT %(scanned)s
) AS message
WHERE
    -- include: message_filter
LIMIT %(limit)s

-- name: view_messages_of_queue_end
-- The last of the messages that `view_messages_of_queue` reads; no row if there are fewer than `scanned`.
-- takes: queue text, before bigint, scanned integer
WITH queue AS MATERIALIZED (
    SELECT one.id FROM kombu_queue AS one WHERE one.name = %(queue)s
)
SELECT message.id, message.enqueued_at
FROM (
    -- include: messages_of_queue
) AS message
ORDER BY message.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_scheduled
-- Messages whose time has not come, the next due first: of each queue, `queues` at most and the internal ones
-- last, or of the one of that name, at most `scanned`.
-- takes: queue text, after timestamptz, after_id bigint, tenant uuid, names text[], queues integer, scanned integer,
--   limit integer
SELECT
    -- include: message_columns
FROM (
    SELECT part.*
    FROM (
        SELECT queue.id FROM kombu_queue AS queue
        WHERE %(queue)s IS NULL OR queue.name = %(queue)s
        ORDER BY
            -- include: is_internal
            , queue.consumed DESC, queue.id
        LIMIT %(queues)s
    ) AS queue
    CROSS JOIN LATERAL (
        SELECT message.*
        -- include: from_timed
          AND message.available_at > now() AND message.available_at >= %(after)s
        ORDER BY message.available_at
        LIMIT %(scanned)s
    ) AS part
    WHERE (part.available_at, part.id) > (%(after)s, %(after_id)s)
    ORDER BY part.available_at, part.id
    LIMIT %(scanned)s
) AS message
WHERE (%(tenant)s IS NULL OR message.tenant_id = %(tenant)s)
  AND (%(names)s IS NULL OR
    -- include: short_name_in_payload
    LIKE ANY (%(names)s))
LIMIT %(limit)s

-- name: view_running
-- Messages that consumers have claimed, the longest claimed first; at most `scanned` claims are read.
-- takes: queue text, consumer bigint, after timestamptz, after_id bigint, tenant uuid, names text[], scanned integer,
--   limit integer
SELECT
    -- include: message_columns
FROM (
    SELECT claim.* FROM (
        SELECT candidate.* FROM kombu_message AS candidate
        WHERE candidate.consumer_id >= coalesce(%(consumer)s, -9223372036854775808)
          AND candidate.consumer_id <= coalesce(%(consumer)s, 9223372036854775807)
        LIMIT %(scanned)s
    ) AS claim
    WHERE (claim.claimed_at, claim.id) > (%(after)s, %(after_id)s)
    ORDER BY claim.claimed_at, claim.id
) AS message
WHERE (%(queue)s IS NULL OR message.queue_id = (SELECT queue.id FROM kombu_queue AS queue WHERE queue.name = %(queue)s))
  AND (%(tenant)s IS NULL OR message.tenant_id = %(tenant)s)
  AND (%(names)s IS NULL OR
    -- include: short_name_in_payload
    LIKE ANY (%(names)s))
LIMIT %(limit)s

-- name: view_ended
-- Stored results, the last ended first; at most `scanned` are read. `since`, `until` and `before` are in UTC.
-- takes: before timestamp, before_id bigint, statuses text[], task text, queue text, since timestamp, scanned integer,
--   limit integer
SELECT
    -- include: ended_columns
FROM (
    SELECT candidate.* FROM celery_taskmeta AS candidate
    WHERE candidate.date_done <= %(before)s AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
      AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
    ORDER BY candidate.date_done DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS meta
WHERE meta.status = ANY (%(statuses)s) AND
    -- include: ended_filter
LIMIT %(limit)s

-- name: view_ended_end
-- The last of the results that `view_ended` reads; no row if there are fewer than `scanned`.
-- takes: before timestamp, before_id bigint, since timestamp, scanned integer
SELECT candidate.date_done, candidate.id FROM celery_taskmeta AS candidate
WHERE candidate.date_done <= %(before)s AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
  AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
ORDER BY candidate.date_done DESC, candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_dead
-- Dead letters, the newest first; at most `scanned` are read. `names` are patterns of the name as it stands in the payload,
-- `whole_names` spellings of all of it, empty where the name is not known.
-- takes: before timestamptz, before_id bigint, reason text, names text[], whole_names text[], queue text, tenant uuid,
--   since timestamptz, scanned integer, limit integer
SELECT letter.id, letter.task_id,
    -- include: name_of_letter
    AS name,
    letter.queue, letter.tenant_id::text, letter.enqueued_at, letter.died_at, letter.failures, letter.reason,
    -- include: size_of_letter
FROM (
    SELECT candidate.* FROM kombu_dead_letter AS candidate
    WHERE candidate.died_at <= %(before)s AND candidate.died_at >= coalesce(%(since)s, '0001-01-02')
      AND (candidate.died_at, candidate.id) < (%(before)s, %(before_id)s)
    ORDER BY candidate.died_at DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS letter
WHERE (%(reason)s IS NULL OR letter.reason = %(reason)s)
  AND (%(queue)s IS NULL OR letter.queue = %(queue)s)
  AND (%(tenant)s IS NULL OR letter.tenant_id = %(tenant)s)
  AND (%(names)s IS NULL OR
    -- include: short_name_of_letter
    LIKE ANY (%(names)s))
  AND (%(whole_names)s IS NULL OR coalesce(
    -- include: short_name_of_letter
    , ''
  ) = ANY (%(whole_names)s))
LIMIT %(limit)s

-- name: view_dead_count
-- How many letters `view_dead` lists of the newest `scanned` that are older than a time.
-- takes: before timestamptz, reason text, whole_names text[], queue text, scanned integer
SELECT count(*)
FROM (
    SELECT candidate.* FROM kombu_dead_letter AS candidate
    WHERE candidate.died_at < %(before)s AND candidate.died_at >= '0001-01-02'
    ORDER BY candidate.died_at DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS letter
WHERE (%(reason)s IS NULL OR letter.reason = %(reason)s)
  AND (%(queue)s IS NULL OR letter.queue = %(queue)s)
  AND (%(whole_names)s IS NULL OR coalesce(
    -- include: short_name_of_letter
    , ''
  ) = ANY (%(whole_names)s))

-- name: view_dead_end
-- The last of the dead letters that `view_dead` reads; no row if there are fewer than `scanned`.
-- takes: before timestamptz, before_id bigint, since timestamptz, scanned integer
SELECT candidate.died_at, candidate.id FROM kombu_dead_letter AS candidate
WHERE candidate.died_at <= %(before)s AND candidate.died_at >= coalesce(%(since)s, '0001-01-02')
  AND (candidate.died_at, candidate.id) < (%(before)s, %(before_id)s)
ORDER BY candidate.died_at DESC, candidate.id DESC
OFFSET %(scanned)s - 1 LIMIT 1

-- name: view_dead_groups
-- The newest `cap` dead letters by reason and task, the largest group first. They are counted by tenant and queue before, by
-- their hashes: a sort of 10,000 letters is half of the cost.
-- takes: tenant uuid, queue text, cap integer, groups integer
SELECT part.reason, part.name, sum(part.letters)::bigint, min(part.first_at), max(part.last_at),
    count(DISTINCT part.tenant_id), sum(part.of_hour)::bigint, sum(part.lately)::bigint,
    (array_agg(DISTINCT part.queue) FILTER (WHERE part.queue IS NOT NULL))[1:10], max(part.last_id)
FROM (
    SELECT letter.reason, letter.name, letter.tenant_id, letter.queue, count(*) AS letters,
        min(letter.died_at) AS first_at, max(letter.died_at) AS last_at,
        count(*) FILTER (WHERE letter.died_at > now() - interval '1 hour') AS of_hour,
        count(*) FILTER (WHERE letter.died_at > now() - interval '15 minutes') AS lately,
        max(letter.id) AS last_id
    FROM (
        SELECT letter.reason, letter.died_at, letter.tenant_id, letter.queue, letter.id,
            -- include: short_name_of_letter
            AS name
        FROM kombu_dead_letter AS letter
        WHERE letter.died_at BETWEEN '0001-01-02' AND '9999-12-30'
        ORDER BY letter.died_at DESC
        LIMIT %(cap)s
    ) AS letter
    GROUP BY letter.reason, letter.name, letter.tenant_id, letter.queue
    OFFSET 0  -- or a plan expects one letter of a tenant, and sorts
) AS part
WHERE (%(tenant)s IS NULL OR part.tenant_id = %(tenant)s) AND (%(queue)s IS NULL OR part.queue = %(queue)s)
GROUP BY part.reason, part.name
ORDER BY sum(part.letters) DESC, max(part.last_at) DESC
LIMIT %(groups)s

-- name: view_ids
-- Ids of tasks that begin with a text, from all three tables. The index's order may ignore hyphens, so it is read from the
-- text on to the last letter after it, and what does not begin with the text is left out.
-- takes: prefix text, limit integer
(
    SELECT message.task_id FROM kombu_message AS message
    WHERE message.task_id >= %(prefix)s AND message.task_id <= %(prefix)s || 'zzzzzzzz' AND message.visible
      AND starts_with(message.task_id, %(prefix)s)
    LIMIT %(limit)s
)
UNION
(
    SELECT message.task_id FROM kombu_message AS message
    WHERE message.task_id >= %(prefix)s AND message.task_id <= %(prefix)s || 'zzzzzzzz' AND NOT message.visible
      AND starts_with(message.task_id, %(prefix)s)
    LIMIT %(limit)s
)
UNION
(
    SELECT meta.task_id FROM celery_taskmeta AS meta
    WHERE meta.task_id >= %(prefix)s AND meta.task_id <= %(prefix)s || 'zzzzzzzz'
      AND starts_with(meta.task_id, %(prefix)s)
    LIMIT %(limit)s
)
UNION
(
    SELECT letter.task_id FROM kombu_dead_letter AS letter
    WHERE letter.task_id >= %(prefix)s AND letter.task_id <= %(prefix)s || 'zzzzzzzz'
      AND starts_with(letter.task_id, %(prefix)s)
    LIMIT %(limit)s
)

-- name: view_messages_of_task
-- All messages of one task, the last published first.
-- takes: task_id text, limit integer
SELECT
    -- include: message_columns
FROM (
    SELECT candidate.*
    FROM (
        -- include: messages_of_task
    ) AS candidate
    ORDER BY candidate.id DESC
    LIMIT %(limit)s
) AS message

-- name: view_result_of_task
-- What is stored of one task.
-- takes: task_id text
SELECT meta.id, meta.task_id, meta.name, meta.status, meta.queue, meta.worker, meta.retries,
    CASE WHEN meta.date_done BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.date_done END,
    -- include: error_of_result
    AS error,
    -- include: moments_of_result
    , meta.result, meta.children, meta.root_id, meta.parent_id, meta.traceback
FROM celery_taskmeta AS meta
WHERE meta.task_id = %(task_id)s

-- name: view_dead_of_task
-- The dead letters of one task, the newest first.
-- takes: task_id text, limit integer
SELECT letter.id, letter.task_id,
    -- include: name_of_letter
    AS name,
    letter.queue, letter.tenant_id::text, letter.enqueued_at, letter.died_at, letter.failures, letter.reason,
    -- include: size_of_letter
FROM (
    SELECT candidate.* FROM kombu_dead_letter AS candidate
    WHERE candidate.task_id = %(task_id)s
    ORDER BY candidate.id + 0 DESC
    LIMIT %(limit)s
) AS letter

-- name: view_payload_of_task
-- What the publisher wrote of a task, unless it is longer than a megabyte.
-- takes: task_id text
(
    SELECT message.payload
    FROM (
        -- include: messages_of_task
    ) AS message
    WHERE octet_length(message.payload) <= 1048576
    LIMIT 1
)
UNION ALL
(
    SELECT letter.payload FROM kombu_dead_letter AS letter
    WHERE letter.task_id = %(task_id)s AND octet_length(letter.payload) <= 1048576
    LIMIT 1
)
LIMIT 1
