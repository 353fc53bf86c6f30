-- What people did to the broker, and which workers were lost.

-- name: begin_action
-- Write an action before it begins. Returns its id.
-- takes: source text, actor text, action text, subject text, conditions text, planned bigint
INSERT INTO console_action (source, actor, action, subject, conditions, planned)
VALUES (%(source)s, %(actor)s, %(action)s, %(subject)s, %(conditions)s, %(planned)s)
RETURNING id

-- name: continue_action
-- Add to what an action has done. Returns it; no row if it has ended, or is another person's.
-- takes: id bigint, actor text, done bigint
UPDATE console_action AS action SET done = action.done + %(done)s
WHERE action.id = %(id)s AND action.actor = %(actor)s AND action.ended_at IS NULL
RETURNING action.done

-- name: end_action
-- takes: id bigint, done bigint, outcome text
UPDATE console_action AS action SET ended_at = now(), done = action.done + %(done)s, outcome = %(outcome)s
WHERE action.id = %(id)s AND action.ended_at IS NULL
RETURNING action.done

-- name: may_drop_actions
-- Whether a login may delete what was recorded: the owner of the table, and no role that acts.
SELECT coalesce(has_table_privilege(to_regclass('console_action')::oid, 'DELETE'), false)

-- name: drop_old_actions
-- Delete the oldest actions that began more than `after_s` seconds ago, at most `limit`; not the pause of a queue that is
-- still paused, which says since when and by whom. Returns how many.
-- takes: after_s float, limit integer
WITH doomed AS (
    SELECT oldest.id
    FROM (
        SELECT action.id, action.began_at, action.action, action.subject
        FROM console_action AS action ORDER BY action.id LIMIT %(limit)s + 1000
    ) AS oldest
    WHERE oldest.began_at < now() - %(after_s)s * interval '1 second' AND NOT (
        oldest.action = 'pause' AND EXISTS (
            SELECT FROM kombu_queue AS queue WHERE queue.name = oldest.subject AND queue.paused
        ) AND NOT EXISTS (
            SELECT FROM console_action AS later
            WHERE later.action IN ('pause', 'resume') AND later.subject = oldest.subject AND later.id > oldest.id
        )
    )
    ORDER BY oldest.id
    LIMIT %(limit)s
), gone AS (
    DELETE FROM console_action AS action WHERE action.id = ANY (ARRAY(SELECT doomed.id FROM doomed)) RETURNING action.id
)
SELECT count(*) FROM gone

-- name: unfinished_action
-- What somebody began and has not ended.
-- takes: id bigint, actor text
SELECT action.action, action.conditions, action.planned, action.done, action.began_at
FROM console_action AS action
WHERE action.id = %(id)s AND action.actor = %(actor)s AND action.ended_at IS NULL

-- name: view_may_act
-- Whether a login may act: what somebody does is recorded first. True without the table, which a page then names.
SELECT coalesce(has_any_column_privilege(to_regclass('console_action')::oid, 'INSERT'), true)

-- name: view_actions
-- Actions before an id, the last begun first.
-- takes: before_id bigint, limit integer
SELECT action.id, action.began_at, action.ended_at, action.source, action.actor, action.login, action.action,
    action.subject, action.planned, action.done, action.outcome
FROM console_action AS action
WHERE action.id < %(before_id)s
ORDER BY action.id DESC
LIMIT %(limit)s

-- name: view_changes
-- Of the last `scanned` actions those that may change how others fare, the last begun first: not what was only read, and
-- not what programs do with their own tasks over HTTP, of which there may be thousands.
-- takes: scanned integer, limit integer
SELECT action.id, action.began_at, action.ended_at, action.source, action.actor, action.login, action.action,
    action.subject, action.planned, action.done, action.outcome
FROM (SELECT newest.* FROM console_action AS newest ORDER BY newest.id DESC LIMIT %(scanned)s) AS action
WHERE action.source <> 'http' AND action.action <> 'read'
ORDER BY action.id DESC
LIMIT %(limit)s

-- name: view_pauses
-- Of each of these queues the last pause: since when, and by whom. Not where it was resumed since: whatever has paused it
-- again has not recorded that.
-- takes: names text[]
SELECT queue.name, pause.began_at, pause.actor
FROM unnest(%(names)s) AS queue (name)
CROSS JOIN LATERAL (
    SELECT action.id, action.began_at, action.actor FROM console_action AS action
    WHERE action.action = 'pause' AND action.subject = queue.name
    ORDER BY action.id DESC
    LIMIT 1
) AS pause
WHERE NOT EXISTS (
    SELECT FROM console_action AS resumed
    WHERE resumed.action = 'resume' AND resumed.subject = queue.name AND resumed.id > pause.id
)

-- name: note_lost_consumer
-- Keep what was known of a consumer that others found dead, for a week.
-- takes: consumer bigint, hostname text, pid integer, started_at timestamptz, claimed bigint, worker text, pool text,
--   slots integer, app_version text, queues text[]
WITH forgotten AS (
    DELETE FROM kombu_lost_consumer AS lost WHERE lost.lost_at < now() - interval '7 days'
)
INSERT INTO kombu_lost_consumer (id, hostname, pid, started_at, claimed, name, pool, slots, app_version, queues)
VALUES (
    %(consumer)s, %(hostname)s, %(pid)s, %(started_at)s, %(claimed)s, %(worker)s, %(pool)s, %(slots)s, %(app_version)s,
    %(queues)s
)
ON CONFLICT (id) DO NOTHING

-- name: view_lost_tasks
-- Of the newest `scanned` attempts, the tasks that were lost with these consumers for good: the number of each consumer, and
-- of the task its id, its name, and when it began. The longest first.
-- takes: consumers bigint[], scanned integer
SELECT lost.id, attempt.task_id, attempt.name,
    CASE WHEN attempt.started_at BETWEEN '0001-01-02' AND '9999-12-30' THEN attempt.started_at END
FROM (
    SELECT candidate.* FROM celery_attempt AS candidate ORDER BY candidate.id DESC LIMIT %(scanned)s
) AS attempt
JOIN kombu_lost_consumer AS lost ON lost.name = attempt.worker
WHERE lost.id = ANY (%(consumers)s) AND attempt.state = 'lost' AND attempt.error = 'acknowledged early'
  AND attempt.recorded_at BETWEEN lost.started_at AND lost.lost_at
ORDER BY lost.id, attempt.started_at, attempt.id

-- name: view_lost_consumers
-- Consumers that others found dead in the last `within_s` seconds, the last first.
-- takes: within_s float, limit integer
SELECT lost.id, lost.lost_at, lost.hostname, lost.pid, lost.started_at, lost.claimed, lost.name, lost.pool, lost.slots,
    lost.app_version, lost.queues
FROM kombu_lost_consumer AS lost
WHERE lost.lost_at > now() - %(within_s)s * interval '1 second'
ORDER BY lost.lost_at DESC
LIMIT %(limit)s
