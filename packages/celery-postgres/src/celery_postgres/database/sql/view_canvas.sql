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
