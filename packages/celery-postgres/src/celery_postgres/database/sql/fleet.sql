-- What operators do with workers and schedules.

-- name: drain_worker
-- Have a worker end when its tasks have ended. No row if there is none of this id that would see it.
-- takes: consumer bigint
UPDATE kombu_consumer AS consumer SET draining = true
WHERE consumer.id = %(consumer)s AND consumer.name IS NOT NULL
RETURNING consumer.name

-- name: forget_worker
-- Remove a worker from those that were lost.
-- takes: consumer bigint
DELETE FROM kombu_lost_consumer AS lost WHERE lost.id = %(consumer)s RETURNING lost.id

-- name: enable_entry
-- Have an entry of the schedule sent again. What was due meanwhile is not made up for.
-- takes: entry text
UPDATE celery_beat_entry AS entry SET enabled = true, counts_from = now()
WHERE entry.name = %(entry)s AND NOT entry.enabled
RETURNING entry.name

-- name: disable_entry
-- Have no beat send an entry by its schedule. A run that was asked for is still sent.
-- takes: entry text
UPDATE celery_beat_entry AS entry SET enabled = false, next_run_at = NULL
WHERE entry.name = %(entry)s AND entry.enabled
RETURNING entry.name

-- name: request_entry
-- Have an entry of the schedule sent once, now.
-- takes: entry text
UPDATE celery_beat_entry AS entry SET requested_at = now() WHERE entry.name = %(entry)s RETURNING entry.name
