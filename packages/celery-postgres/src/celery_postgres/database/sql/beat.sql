-- When `celery beat` last sent each entry of its schedule.

-- name: beat_entries
-- The state of each entry. A new entry counts from now on, by the clock of the beat, which compares times with it.
-- takes: names text[], now timestamptz
WITH added AS (
    INSERT INTO celery_beat_entry (name, last_run_at)
    SELECT entry.name, %(now)s FROM unnest(%(names)s) AS entry (name)
    ON CONFLICT (name) DO NOTHING
    RETURNING name, last_run_at, runs
)
SELECT entry.name, entry.last_run_at, entry.runs FROM celery_beat_entry AS entry WHERE entry.name = ANY (%(names)s)
UNION ALL
SELECT added.name, added.last_run_at, added.runs FROM added

-- name: beat_take
-- Take the next run of an entry, unless another beat has. Until the transaction ends, other beats wait for it.
-- takes: entry text, runs bigint, at timestamptz
UPDATE celery_beat_entry AS entry SET last_run_at = %(at)s, runs = entry.runs + 1
WHERE entry.name = %(entry)s AND entry.runs = %(runs)s
RETURNING entry.runs
