-- Moving a queue to another database. The same statements run in both; each step may be repeated after a crash.

-- name: waiting_after
-- repeatable
-- A batch of the waiting messages of a queue, by their ids: the id, the size, and the payload if it is part of a group.
-- takes: queue bigint, after bigint, limit bigint
SELECT
    message.id, octet_length(message.payload),
    CASE WHEN message.payload ~ '"group": ?"' THEN message.payload END
FROM kombu_message AS message
WHERE message.id > %(after)s AND message.queue_id = %(queue)s AND message.visible
ORDER BY message.id
LIMIT %(limit)s

-- name: set_aside
-- repeatable
-- To a queue that nothing consumes, where no message holds a unique key: another one may have come for the same. Those that
-- a consumer has claimed meanwhile stay. Returns the ids that are there.
-- takes: queue bigint, aside bigint, ids bigint[]
UPDATE kombu_message AS message
SET queue_id = %(aside)s, unique_until = -abs(message.unique_until)
WHERE message.id = ANY (%(ids)s) AND message.queue_id = %(queue)s AND message.visible
RETURNING message.id

-- name: messages_aside
-- repeatable
-- What a message keeps in another database. Times are texts: Python has no word for all of them.
-- takes: aside bigint, ids bigint[]
SELECT
    message.payload, message.priority, message.task_id, message.tenant_id::text, message.enqueued_at::text,
    message.available_at::text, message.expires_at::text, message.failures, message.revoked, message.flow_key,
    message.flow_later, message.in_order
FROM kombu_message AS message
WHERE message.id = ANY (%(ids)s) AND message.queue_id = %(aside)s
ORDER BY message.id

-- name: delete_aside
-- repeatable
-- takes: aside bigint, ids bigint[]
DELETE FROM kombu_message AS message WHERE message.id = ANY (%(ids)s) AND message.queue_id = %(aside)s

-- name: moves
-- repeatable
-- The queues whose names begin so.
-- takes: prefix text
SELECT queue.name FROM kombu_queue AS queue WHERE starts_with(queue.name, %(prefix)s) ORDER BY queue.name

-- name: move_record
-- repeatable
-- The message that records how far a move has come, and its id.
-- takes: queue text
SELECT message.id, message.payload
FROM kombu_message AS message
WHERE message.queue_id = (SELECT queue.id FROM kombu_queue AS queue WHERE queue.name = %(queue)s)
  AND message.visible AND message.available_at IS NULL
ORDER BY message.priority DESC, message.id + 0
LIMIT 1

-- name: move_in
-- A batch and its record, in one commit. Messages keep their keys if the queue is fair here too. Nothing is written if the record is not the one expected: another process has
-- gone on with this move. Returns whether it was written.
-- takes: queue bigint, record_id bigint, expected text, record text, payloads text[], priorities smallint[],
--   task_ids text[], tenant_ids text[], enqueued text[], available text[], expires text[], failures smallint[],
--   revoked boolean[], flow_keys bigint[], flow_later bigint[], in_orders boolean[]
WITH recorded AS (
    UPDATE kombu_message AS message
    SET payload = %(record)s
    WHERE message.id = %(record_id)s AND message.payload = %(expected)s
    RETURNING message.id
), touched AS (
    INSERT INTO kombu_message (
        queue_id, payload, priority, task_id, tenant_id, enqueued_at, available_at, expires_at, failures, revoked,
        flow_key, flow_later, in_order
    )
    SELECT
        %(queue)s, one.payload, one.priority, one.task_id, one.tenant_id::uuid, one.enqueued::timestamptz,
        CASE
            WHEN queue.fair OR one.flow_key IS NULL OR one.failures > 0 THEN one.available::timestamptz
        END,
        one.expires::timestamptz, one.failures, one.revoked, CASE WHEN queue.fair THEN one.flow_key END,
        CASE WHEN queue.fair THEN one.flow_later END, CASE WHEN queue.fair THEN one.in_order END
    FROM unnest(
        %(payloads)s, %(priorities)s, %(task_ids)s, %(tenant_ids)s, %(enqueued)s, %(available)s, %(expires)s,
        %(failures)s, %(revoked)s, %(flow_keys)s, %(flow_later)s, %(in_orders)s
    ) WITH ORDINALITY AS one (
        payload, priority, task_id, tenant_id, enqueued, available, expires, failures, revoked, flow_key, flow_later,
        in_order, number
    )
    JOIN kombu_queue AS queue ON queue.id = %(queue)s
    WHERE EXISTS (SELECT FROM recorded)
    ORDER BY one.number
    RETURNING queue_id
)
SELECT
    (SELECT count(*) FROM recorded) = 1,
    -- include: wake_sleepers
