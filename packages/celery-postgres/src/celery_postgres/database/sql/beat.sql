-- When `celery beat` last sent each entry of its schedule, what operators want of it, and which beats live.

-- name: beat_entries
-- The state of each entry. A new entry counts from now on, by the clock of the beat, which compares times with it; one that
-- was enabled, from then on.
-- takes: names text[], now timestamptz
WITH added AS (
    INSERT INTO celery_beat_entry (name, last_run_at)
    SELECT entry.name, %(now)s FROM unnest(%(names)s) AS entry (name)
    ON CONFLICT (name) DO NOTHING
    RETURNING name, last_run_at, runs, enabled
)
SELECT entry.name, greatest(entry.last_run_at, entry.counts_from), entry.runs, entry.enabled, entry.requested_at IS NOT NULL
FROM celery_beat_entry AS entry WHERE entry.name = ANY (%(names)s)
UNION ALL
SELECT added.name, added.last_run_at, added.runs, added.enabled, false FROM added

-- name: beat_take
-- Take the next run of an entry, unless another beat has, or an operator has disabled it. Until the transaction ends, other
-- beats wait for it.
-- takes: entry text, runs bigint, at timestamptz, next timestamptz
UPDATE celery_beat_entry AS entry SET last_run_at = %(at)s, runs = entry.runs + 1, next_run_at = %(next)s
WHERE entry.name = %(entry)s AND entry.runs = %(runs)s AND entry.enabled
RETURNING entry.runs

-- name: beat_take_request
-- Take what an operator wants sent now, unless another beat has.
-- takes: entry text
UPDATE celery_beat_entry AS entry SET requested_at = NULL
WHERE entry.name = %(entry)s AND entry.requested_at IS NOT NULL
RETURNING entry.name

-- name: beat_sent
-- Note the task that was sent for an entry.
-- takes: entry text, task_id text
UPDATE celery_beat_entry AS entry SET sent_at = now(), last_task_id = %(task_id)s WHERE entry.name = %(entry)s

-- name: beat_describe
-- Note what the entries send and when, and when each is due. Another beat that starts, or sends an entry, is not waited for:
-- it notes the same. Two beats compute one time to the microsecond only by chance, so nothing is written for a second.
-- takes: names text[], tasks text[], schedules text[], next timestamptz[]
WITH free AS MATERIALIZED (
    SELECT entry.name FROM celery_beat_entry AS entry
    WHERE entry.name = ANY (%(names)s)
    ORDER BY entry.name
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE celery_beat_entry AS entry SET task = own.task, schedule = own.schedule, next_run_at = own.next_run_at
FROM free
JOIN unnest(%(names)s, %(tasks)s, %(schedules)s, %(next)s) AS own (name, task, schedule, next_run_at) ON own.name = free.name
WHERE entry.name = free.name
  AND (
    (entry.task, entry.schedule, entry.next_run_at IS NULL) IS DISTINCT FROM (own.task, own.schedule, own.next_run_at IS NULL)
    OR entry.next_run_at NOT BETWEEN own.next_run_at - interval '1 second' AND own.next_run_at + interval '1 second'
  )

-- name: beat_start
-- repeatable
-- Note that a beat lives, and what it sends. Forget those that ended more than a day ago, and those that this one replaces.
-- takes: beat bigint, hostname text, pid integer, timezone text, names text[]
WITH forgotten AS (
    DELETE FROM celery_beat AS gone
    WHERE gone.id <> %(beat)s AND gone.seen_at < now() - interval '30 seconds' * CASE
        WHEN gone.hostname = %(hostname)s THEN 1 ELSE 2880
    END
)
INSERT INTO celery_beat AS beat (id, hostname, pid, timezone, entries)
VALUES (%(beat)s, %(hostname)s, %(pid)s, %(timezone)s, %(names)s)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), entries = excluded.entries, stopped_at = NULL

-- name: beat_seen
-- repeatable
-- Note that a beat still lives; no row if it was forgotten.
-- takes: beat bigint
UPDATE celery_beat AS beat SET seen_at = now() WHERE beat.id = %(beat)s RETURNING beat.id

-- name: beat_stop
-- repeatable
-- takes: beat bigint
UPDATE celery_beat AS beat SET seen_at = now(), stopped_at = now() WHERE beat.id = %(beat)s
