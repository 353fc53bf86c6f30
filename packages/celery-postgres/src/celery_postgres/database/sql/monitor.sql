-- What metrics, health checks and pages read, on a connection of the application and in its transaction.

-- name: monitor_begin
-- For the rest of the transaction: the rights of `celery_monitor` and no others, if roles.sql has made that role. And
-- plans by index, as while statistics are fresh: otherwise the planner may read all delivered messages before it finds
-- the first waiting one, and a bitmap holds all of a backlog before a limit cuts it. Without JIT: a planner that must not
-- scan tables overestimates the cost, and the server then compiles for seconds, which no timeout interrupts.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('jit', 'off', true), (
    SELECT set_config('role', monitor.rolname, true)
    FROM pg_roles AS monitor
    WHERE monitor.rolname = 'celery_monitor' AND pg_has_role(monitor.oid, 'MEMBER')
      AND has_table_privilege(monitor.oid, to_regclass('kombu_queue'), 'SELECT')
)

-- name: queue_depths
-- The depth of all queues of the broker, with or without consumers. It does not depend on the role that asks.
--
-- The `named` oldest queues have a row each: those in `first`, then those that ever had a consumer of ours, then others.
-- The rest is one row, `other`, with the age of its oldest message and the consumers of the queue with work that has the
-- fewest. Without the queues of remote control and events, and others that delete themselves: each worker has some,
-- under names that never come again.
--
-- Counting stops at `cap` for each queue and state: the figure then means "at least so many", and no scrape reads a whole
-- backlog. Of the rest, each index is read at its first entry of each queue, for `walked` queues at most. Claimed
-- messages are in an index by consumer: it is read once for all queues, and reading ends at ten times `cap`.
-- takes: first text[], named integer, walked integer, cap integer
WITH RECURSIVE durable AS MATERIALIZED (
    SELECT queue.id, queue.name, queue.name <> 'other' AND row_number() OVER (
        ORDER BY queue.name = 'other', queue.name = ANY(%(first)s) DESC, queue.consumed DESC, queue.id
    ) <= %(named)s AS named
    FROM kombu_queue AS queue
    WHERE NOT queue.auto_delete AND right(queue.name, 7) <> '.pidbox' AND NOT starts_with(queue.name, 'celeryev.')
), ready AS (
    SELECT (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE first.visible AND first.available_at IS NULL ORDER BY first.queue_id LIMIT 1
    ) AS queue_id
    WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE following.visible AND following.available_at IS NULL AND following.queue_id > ready.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM ready WHERE ready.queue_id IS NOT NULL
), timed AS (
    SELECT (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE first.visible AND first.available_at IS NOT NULL ORDER BY first.queue_id LIMIT 1
    ) AS queue_id
    WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE following.visible AND following.available_at IS NOT NULL AND following.queue_id > timed.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM timed WHERE timed.queue_id IS NOT NULL
), claimed AS MATERIALIZED (
    -- include: claimed_by_queue
), used AS MATERIALIZED (
    (SELECT ready.queue_id FROM ready LIMIT %(walked)s)
    UNION
    (SELECT timed.queue_id FROM timed LIMIT %(walked)s)
    UNION
    SELECT claimed.queue_id FROM claimed
), queue AS MATERIALIZED (
    SELECT durable.id, durable.name FROM durable WHERE durable.named
    UNION ALL
    SELECT durable.id, 'other' FROM durable
    WHERE NOT durable.named AND durable.id IN (SELECT used.queue_id FROM used)
    UNION ALL
    SELECT NULL, 'other' WHERE EXISTS (SELECT FROM durable WHERE NOT durable.named)
), counted AS MATERIALIZED (
    SELECT
        queue.name,
        -- include: ready_count
        AS ready,
        -- include: scheduled_count
        AS scheduled,
        (SELECT claimed.messages FROM claimed WHERE claimed.queue_id = queue.id) AS claimed,
        -- include: ready_since
        AS since,
        -- include: consumer_count
        AS consumers
    FROM queue
)
SELECT
    counted.name,
    least(sum(counted.ready), %(cap)s)::bigint AS ready,
    least(sum(counted.scheduled), %(cap)s)::bigint AS scheduled,
    least(coalesce(sum(counted.claimed), 0), %(cap)s)::bigint AS claimed,
    coalesce(extract(epoch FROM now() - CASE
        WHEN min(counted.since) < now() THEN greatest(min(counted.since), '1970-01-01 00:00+00')
    END), 0)::float AS oldest_s,
    min(counted.consumers) FILTER (WHERE counted.name <> 'other' OR counted.ready > 0) AS consumers
FROM counted
GROUP BY counted.name
ORDER BY counted.name

-- name: key_depths
-- The keys of fair queues that have most messages waiting, and those that have most running: `top` of each for each queue,
-- by the hash of the key, because whoever may see metrics may not see keys. Of each queue, how many keys wait, and how many
-- of those wait because of their limit's concurrency, or of its rate.
--
-- The `named` oldest fair queues are looked at, those in `first` before others, and `walked` keys of each, by their hash;
-- of each key `cap` messages are counted. 500 keys with 1,000 messages each are 80 ms.
-- takes: first text[], named integer, walked integer, top integer, cap integer
WITH RECURSIVE fair AS MATERIALIZED (
    SELECT queue.id, queue.name
    FROM kombu_queue AS queue
    WHERE queue.fair
    ORDER BY queue.name = ANY(%(first)s) DESC, queue.id
    LIMIT %(named)s
), key AS (
    SELECT fair.id AS queue_id, 1 AS number, (
        SELECT message.flow_key FROM kombu_message AS message
        WHERE message.queue_id = fair.id AND message.visible AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key LIMIT 1
    ) AS flow_key
    FROM fair
    UNION ALL
    SELECT key.queue_id, key.number + 1, (
        SELECT message.flow_key FROM kombu_message AS message
        WHERE message.queue_id = key.queue_id AND message.visible AND message.flow_key > key.flow_key
          AND message.flow_key IS NOT NULL AND message.failures = 0
        ORDER BY message.flow_key LIMIT 1
    )
    FROM key
    WHERE key.flow_key IS NOT NULL AND key.number < %(walked)s
), waiting AS MATERIALIZED (
    SELECT key.queue_id, key.flow_key, (
        SELECT count(*) FROM (
            SELECT FROM kombu_message AS message
            WHERE message.queue_id = key.queue_id AND message.flow_key = key.flow_key AND message.visible
              AND message.flow_key IS NOT NULL AND message.failures = 0
            LIMIT %(cap)s
        ) AS part
    ) AS waiting
    FROM key
    WHERE key.flow_key IS NOT NULL
), running AS MATERIALIZED (
    SELECT fair.id AS queue_id, claimed.flow_key, count(*) AS running
    FROM fair
    CROSS JOIN LATERAL (
        SELECT message.flow_key FROM kombu_message AS message
        WHERE message.queue_id = fair.id AND NOT message.visible AND message.flow_key IS NOT NULL
        LIMIT 10 * %(cap)s
    ) AS claimed
    GROUP BY fair.id, claimed.flow_key
), counted AS MATERIALIZED (
    SELECT queue_id, flow_key, coalesce(waiting.waiting, 0) AS waiting, coalesce(running.running, 0) AS running
    FROM waiting FULL JOIN running USING (queue_id, flow_key)
), ranked AS MATERIALIZED (
    SELECT counted.*,
        row_number() OVER (PARTITION BY counted.queue_id ORDER BY counted.waiting DESC, counted.flow_key) AS by_waiting,
        row_number() OVER (PARTITION BY counted.queue_id ORDER BY counted.running DESC, counted.flow_key) AS by_running,
        counted.waiting > 0 AND coalesce(
            counted.running >= coalesce(own.max_running, each_key.max_running), false
        ) AS at_limit,
        counted.waiting > 0 AND coalesce(throttle.free_at > now() + (
            CASE WHEN own.per_second IS NULL THEN each_key.burst ELSE own.burst END - 1
        ) / nullif(coalesce(own.per_second, each_key.per_second), 0) * interval '1 second', false) AS throttled
    FROM counted
    LEFT JOIN kombu_limit AS own ON own.queue_id = counted.queue_id AND own.flow_key = counted.flow_key
    LEFT JOIN kombu_limit AS each_key ON each_key.queue_id = counted.queue_id AND each_key.flow_key IS NULL
    LEFT JOIN kombu_throttle AS throttle
        ON throttle.queue_id = counted.queue_id AND throttle.flow_key = counted.flow_key
)
SELECT fair.name, NULL AS key, count(*) FILTER (WHERE ranked.waiting > 0) AS waiting,
    count(*) FILTER (WHERE ranked.at_limit) AS at_limit, count(*) FILTER (WHERE ranked.throttled) AS throttled
FROM fair LEFT JOIN ranked ON ranked.queue_id = fair.id
GROUP BY fair.name
UNION ALL
SELECT fair.name, lpad(to_hex(ranked.flow_key), 16, '0'), ranked.waiting, ranked.running, NULL
FROM ranked JOIN fair ON fair.id = ranked.queue_id
WHERE ranked.by_waiting <= %(top)s AND ranked.waiting > 0 OR ranked.by_running <= %(top)s AND ranked.running > 0

-- name: dead_letter_counts
-- How many dead letters there are by queue, `cap` of the newest at most, and how many of them came in the last 15
-- minutes; those of queues that are not in `queues` together as `other`.
-- takes: queues text[], cap integer
SELECT
    CASE WHEN dead.queue = ANY(%(queues)s) THEN dead.queue ELSE 'other' END,
    count(*),
    count(*) FILTER (WHERE dead.died_at > now() - interval '15 minutes')
FROM (
    SELECT letter.queue, letter.died_at FROM kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT %(cap)s
) AS dead
GROUP BY 1

-- name: beat_runs
-- From when the next run of each of these entries of the schedule counts; not of those that are disabled.
-- takes: names text[]
SELECT entry.name, greatest(entry.last_run_at, entry.counts_from) FROM celery_beat_entry AS entry
WHERE entry.name = ANY(%(names)s) AND entry.enabled
ORDER BY 1

-- name: newest_beat
-- How many seconds ago the last beat that has entries was seen; null if none was in the last day.
SELECT extract(epoch FROM now() - max(beat.seen_at))::float
FROM celery_beat AS beat
WHERE cardinality(beat.entries) > 0 AND beat.seen_at > now() - interval '1 day'

-- name: reported_runs
-- What workers report of the tasks that they run the longest, and how many seconds ago they did.
SELECT extract(epoch FROM now() - consumer.beat_at)::float, consumer.running
FROM kombu_consumer AS consumer
WHERE consumer.running IS NOT NULL AND consumer.beat_at IS NOT NULL
ORDER BY consumer.id
LIMIT 2000

-- name: broker_usable
-- Whether the role may consume. kombu_message itself is not read, since its first visible row may lie behind a million
-- delivered ones.
SELECT has_table_privilege('kombu_message', 'SELECT') AND has_table_privilege('kombu_message', 'UPDATE'), (
    SELECT count(*) FROM (SELECT queue.id FROM kombu_queue AS queue LIMIT 1) AS some_queue
)

-- name: waiting_by_tenant
-- The waiting messages of a queue by tenant, scheduled ones included. Reading ends at `cap` messages that have no time
-- and `cap` that have one.
-- takes: queue text, cap integer
SELECT waiting.tenant_id, count(*)
FROM kombu_queue AS queue
CROSS JOIN LATERAL (
    (
        SELECT message.tenant_id
        -- include: from_untimed
        LIMIT %(cap)s
    )
    UNION ALL
    (
        SELECT message.tenant_id
        -- include: from_timed
        LIMIT %(cap)s
    )
) AS waiting
WHERE queue.name = %(queue)s
GROUP BY waiting.tenant_id

-- name: task_states
-- The state of each task, when it was stored, and its result. PENDING: there is no result yet, and a message. A state
-- that is null: there is neither. Python has no word for times outside of those years, nor for "infinity".
-- takes: task_ids text[]
SELECT
    asked.task_id,
    coalesce(meta.status, CASE WHEN EXISTS (
        SELECT FROM kombu_message AS message WHERE message.task_id = asked.task_id AND message.visible
        OFFSET 0
    ) OR EXISTS (
        SELECT FROM kombu_message AS message WHERE message.task_id = asked.task_id AND NOT message.visible
        OFFSET 0
    ) THEN 'PENDING' END),
    CASE WHEN meta.date_done BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.date_done END,
    meta.result
FROM unnest(%(task_ids)s) AS asked (task_id)
LEFT JOIN LATERAL (
    SELECT found.status, found.date_done, found.result
    FROM celery_taskmeta AS found
    WHERE found.task_id = asked.task_id
    OFFSET 0
) AS meta ON true
