-- The tasks of a canvas: a chain, a group or a chord, with whatever its tasks have sent.

-- name: view_root_of
-- The root of a canvas, by a task of it whose result is stored.
-- takes: task_id text
SELECT coalesce(meta.root_id, meta.task_id) FROM celery_taskmeta AS meta WHERE meta.task_id = %(task_id)s

-- name: view_canvas
-- The results of a canvas: its root's, and those of its members, at most `limit` of them.
-- takes: root text, limit integer
SELECT meta.task_id, meta.name, meta.status, meta.parent_id, meta.tenant_id::text,
    CASE WHEN octet_length(meta.children) <= 65536 THEN meta.children END
FROM (
    SELECT one.* FROM celery_taskmeta AS one WHERE one.task_id = %(root)s
    UNION ALL
    (SELECT one.* FROM celery_taskmeta AS one WHERE one.root_id = %(root)s AND one.task_id <> %(root)s LIMIT %(limit)s)
) AS meta

-- name: view_canvas_messages
-- The messages and dead letters of these tasks, with their payloads up to a length.
-- takes: task_ids text[], longest integer, limit integer
SELECT message.task_id,
    -- include: message_state
    AS state,
    message.tenant_id::text,
    -- include: name_in_payload
    AS name, CASE WHEN octet_length(message.payload) <= %(longest)s THEN message.payload END
FROM (
    (
        SELECT waiting.* FROM kombu_message AS waiting
        WHERE waiting.task_id = ANY (%(task_ids)s) AND waiting.visible LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT claimed.* FROM kombu_message AS claimed
        WHERE claimed.task_id = ANY (%(task_ids)s) AND NOT claimed.visible LIMIT %(limit)s
    )
) AS message
UNION ALL
(
    SELECT letter.task_id, 'dead', letter.tenant_id::text,
        -- include: name_of_letter
        ,
        CASE WHEN octet_length(letter.payload) <= %(longest)s THEN letter.payload END
    FROM kombu_dead_letter AS letter
    WHERE letter.task_id = ANY (%(task_ids)s)
    LIMIT %(limit)s
)

-- name: view_group_near
-- The tasks whose messages name a group, of the `scanned` messages before and after a task's: a group is published together.
-- takes: task_id text, named text, scanned integer, longest integer, limit integer
WITH own AS MATERIALIZED (
    (SELECT waiting.id FROM kombu_message AS waiting WHERE waiting.task_id = %(task_id)s AND waiting.visible LIMIT 1)
    UNION ALL
    (SELECT claimed.id FROM kombu_message AS claimed WHERE claimed.task_id = %(task_id)s AND NOT claimed.visible LIMIT 1)
    LIMIT 1
)
SELECT near.task_id
FROM own
CROSS JOIN LATERAL (
    (
        SELECT before.task_id, before.payload FROM kombu_message AS before
        WHERE before.id <= own.id ORDER BY before.id DESC LIMIT %(scanned)s
    )
    UNION ALL
    (
        SELECT after.task_id, after.payload FROM kombu_message AS after
        WHERE after.id > own.id ORDER BY after.id LIMIT %(scanned)s
    )
) AS near
WHERE near.task_id IS NOT NULL AND octet_length(near.payload) <= %(longest)s AND strpos(near.payload, %(named)s) > 0
LIMIT %(limit)s

-- name: view_group_parts
-- The parts of a chord that have ended, with what their results tell of them.
-- takes: chord text, limit integer
SELECT part.task_id, meta.name, part.status, meta.parent_id, meta.tenant_id::text, NULL::bytea
FROM (
    SELECT one.task_id, one.status FROM celery_chord_part AS one WHERE one.chord_id = %(chord)s LIMIT %(limit)s
) AS part
LEFT JOIN LATERAL (
    SELECT found.name, found.parent_id, found.tenant_id FROM celery_taskmeta AS found WHERE found.task_id = part.task_id
    LIMIT 1
) AS meta ON true
