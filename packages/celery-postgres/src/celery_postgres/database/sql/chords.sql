-- Chords. `record` in results.sql counts the parts; everything else is here.

-- name: size_chord
-- repeatable
-- Records the number of parts of a chord, before the last of them is published. The first size recorded wins. Returns
-- whether the body is due now.
-- takes: chord text, size integer
SELECT sized.id, sized.is_due FROM celery_size_chord(%(chord)s, %(size)s) AS sized

-- name: enlarge_chord
-- Adds one part to a chord.
-- takes: chord text
INSERT INTO celery_chord AS chord (id, added) VALUES (%(chord)s, 1)
ON CONFLICT (id) DO UPDATE SET added = chord.added + 1

-- name: chord_parts
-- The body of a chord that is due, whether the shape of its header is saved, and the results of its parts in their
-- order. No row if another process has already ended the chord.
-- takes: chord text
SELECT chord.body, EXISTS (SELECT FROM celery_tasksetmeta AS saved WHERE saved.taskset_id = %(chord)s),
    part.task_id, part.status, coalesce(part.result, (
        SELECT meta.result FROM celery_taskmeta AS meta WHERE meta.task_id = part.task_id
    ))
FROM celery_chord AS chord
JOIN celery_chord_part AS part ON part.chord_id = %(chord)s
WHERE chord.id = %(chord)s AND (chord.due_at IS NOT NULL) IS TRUE
ORDER BY part.position NULLS LAST, part.task_id

-- name: overdue_chords
-- repeatable
-- Chords whose last part returned more than `seconds` ago and whose body was not sent: the process that should have
-- sent it is gone.
-- takes: seconds float
SELECT chord.id
FROM celery_chord AS chord
WHERE chord.due_at < now() - %(seconds)s * interval '1 second'
ORDER BY chord.due_at
LIMIT 100

-- name: finish_chord
-- repeatable
-- Publishes the messages of the body and deletes the chord, in one commit. Of two processes that try, one does both and
-- the other nothing. Returns the names of the queues that do not exist; if there is one, nothing was written.
-- takes: chord text, queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids text[],
--   etas timestamptz[], ttls_ms bigint[], flow_keys text[], in_orders boolean[]
WITH given AS MATERIALIZED (
    -- include: given
), finished AS (
    DELETE FROM celery_chord AS chord
    WHERE chord.id = %(chord)s AND chord.due_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM given WHERE given.queue_id IS NULL)
    RETURNING chord.id
), cleared AS (
    DELETE FROM celery_chord_part AS part WHERE part.chord_id = (SELECT finished.id FROM finished)
), touched AS (
    -- include: insert_message
    -- include: message_of_given
    FROM finished CROSS JOIN given
    ORDER BY given.number
    RETURNING queue_id
)
SELECT
    (SELECT array_agg(DISTINCT given.queue) FROM given WHERE given.queue_id IS NULL),
    -- include: wake_sleepers

-- name: end_chord
-- repeatable
-- Deletes the chord after its body was published in another database. Returns whether the chord was still there.
-- takes: chord text
WITH finished AS (
    DELETE FROM celery_chord AS chord
    WHERE chord.id = %(chord)s AND chord.due_at IS NOT NULL
    RETURNING chord.id
), cleared AS (
    DELETE FROM celery_chord_part AS part WHERE part.chord_id = (SELECT finished.id FROM finished)
)
SELECT EXISTS (SELECT FROM finished)

-- name: drop_old_chords
-- Deletes one batch of chords older than `seconds` that will never complete (a part was lost, or the header was only
-- partly published) or whose body could not be sent in all that time. Returns how many were deleted.
-- takes: seconds float, batch bigint
WITH gone AS (
    DELETE FROM celery_chord AS chord
    WHERE chord.id = ANY (ARRAY(
        SELECT candidate.id FROM celery_chord AS candidate
        WHERE candidate.created_at < now() - %(seconds)s * interval '1 second'
            AND (candidate.due_at IS NULL OR candidate.due_at < now() - %(seconds)s * interval '1 second')
        ORDER BY candidate.created_at
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING chord.id
), cleared AS (
    DELETE FROM celery_chord_part AS part WHERE part.chord_id = ANY (ARRAY(SELECT gone.id FROM gone))
)
SELECT count(*) FROM gone
