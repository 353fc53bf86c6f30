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
-- The body of a chord that is due, with the results of its parts in their order. No row if another process has already
-- ended the chord.
-- takes: chord text
SELECT chord.body, part.task_id, part.status, coalesce(part.result, (
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
-- the other nothing. Returns whether this one did. The queues must exist.
-- takes: chord text, queues text[], payloads text[], priorities smallint[], task_ids text[], tenant_ids uuid[],
--   etas timestamptz[], ttls_ms bigint[]
WITH finished AS (
    DELETE FROM celery_chord AS chord
    WHERE chord.id = %(chord)s AND chord.due_at IS NOT NULL
    RETURNING chord.id
), cleared AS (
    DELETE FROM celery_chord_part AS part WHERE part.chord_id = (SELECT finished.id FROM finished)
), touched AS (
    -- include: insert_message
    SELECT
        queue.id, one.payload, one.priority, one.task_id, one.tenant_id,
        CASE WHEN one.eta > now() THEN one.eta END,
        now() + least(one.ttl_ms, queue.message_ttl_ms) * interval '1 millisecond'
    FROM finished
    CROSS JOIN unnest(
        %(queues)s, %(payloads)s, %(priorities)s, %(task_ids)s, %(tenant_ids)s, %(etas)s, %(ttls_ms)s
    ) WITH ORDINALITY AS one (queue, payload, priority, task_id, tenant_id, eta, ttl_ms, number)
    JOIN kombu_queue AS queue ON queue.name = one.queue
    ORDER BY one.number
    RETURNING queue_id
)
SELECT
    EXISTS (SELECT FROM finished),
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
