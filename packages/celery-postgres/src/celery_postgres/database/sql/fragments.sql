-- What several statements have in common. `-- include: name` in a statement stands for the fragment of that name.

-- fragment: insert_message
-- Whatever publishes a message fills these columns; the others have defaults. In a fair queue each message has a time and
-- the hash of its key: in `flow_key` if it is ready, in `flow_later` if it is scheduled.
INSERT INTO kombu_message AS message (
    queue_id, payload, priority, task_id, tenant_id, available_at, expires_at, flow_key, flow_later, in_order
)

-- fragment: message_of_parameters
-- One message for each row of `queue`. A publish of its own counts times from its start.
SELECT
    queue.id, %(payload)s, %(priority)s, %(task_id)s, %(tenant_id)s,
    -- include: times_and_keys
    , CASE WHEN queue.fair THEN %(in_order)s END

-- fragment: times_and_keys
CASE WHEN %(eta)s > now() THEN %(eta)s WHEN queue.fair THEN now() END,
now() + least(%(ttl_ms)s, queue.message_ttl_ms) * interval '1 millisecond',
CASE WHEN queue.fair AND (%(eta)s > now()) IS NOT TRUE THEN hashtextextended(%(flow_key)s, 0) END,
CASE WHEN queue.fair AND %(eta)s > now() THEN hashtextextended(%(flow_key)s, 0) END

-- fragment: message_of_parameters_within
-- The same in a caller's transaction, which may have begun long ago.
SELECT
    queue.id, %(payload)s, %(priority)s, %(task_id)s, %(tenant_id)s,
    CASE WHEN %(eta)s > clock_timestamp() THEN %(eta)s WHEN queue.fair THEN clock_timestamp() END,
    clock_timestamp() + least(%(ttl_ms)s, queue.message_ttl_ms) * interval '1 millisecond',
    CASE WHEN queue.fair AND (%(eta)s > clock_timestamp()) IS NOT TRUE THEN hashtextextended(%(flow_key)s, 0) END,
    CASE WHEN queue.fair AND %(eta)s > clock_timestamp() THEN hashtextextended(%(flow_key)s, 0) END,
    CASE WHEN queue.fair THEN %(in_order)s END

-- fragment: given
-- Many messages in their order, each with its queue; a queue that does not exist has a null id.
SELECT one.*, queue.id AS queue_id, queue.message_ttl_ms, queue.fair, queue.refuses
FROM unnest(
    %(queues)s, %(payloads)s, %(priorities)s, %(task_ids)s, %(tenant_ids)s::uuid[], %(etas)s, %(ttls_ms)s,
    %(flow_keys)s, %(in_orders)s
) WITH ORDINALITY AS one (queue, payload, priority, task_id, tenant_id, eta, ttl_ms, flow_key, in_order, number)
LEFT JOIN kombu_queue AS queue ON queue.name = one.queue
ORDER BY one.number

-- fragment: message_of_given
-- One message for each row of `given`.
SELECT
    given.queue_id, given.payload, given.priority, given.task_id, given.tenant_id,
    CASE WHEN given.eta > now() THEN given.eta WHEN given.fair THEN now() END,
    now() + least(given.ttl_ms, given.message_ttl_ms) * interval '1 millisecond',
    CASE WHEN given.fair AND (given.eta > now()) IS NOT TRUE THEN hashtextextended(given.flow_key, 0) END,
    CASE WHEN given.fair AND given.eta > now() THEN hashtextextended(given.flow_key, 0) END,
    CASE WHEN given.fair THEN given.in_order END

-- fragment: unfit
-- A message of `given` whose queue does not take it: it does not exist, refuses, is fair and the message has no key, or is
-- not fair and cannot keep its order.
given.queue_id IS NULL OR given.refuses AND NOT %(admitted)s
OR CASE WHEN given.fair THEN given.flow_key IS NULL ELSE given.in_order IS TRUE END

-- fragment: fits
-- The opposite, of one message and a `queue` that exists.
(NOT queue.refuses OR %(admitted)s)
AND CASE WHEN queue.fair THEN %(flow_key)s IS NOT NULL ELSE %(in_order)s IS NOT TRUE END

-- fragment: binding_matches
binding.exchange = %(exchange)s
AND CASE binding.type
    WHEN 'fanout' THEN true
    WHEN 'topic' THEN %(routing_key)s ~ binding.pattern
    ELSE binding.routing_key = %(routing_key)s
END

-- fragment: commit_of_transient
-- Always true. The commit of a transient message does not wait for the disk, so it may notify as well: the two consumers
-- of `queue` that fell asleep last, unless the message is scheduled for later.
CASE WHEN %(durable)s = 'no' THEN set_config('synchronous_commit', 'off', true) IS NOT NULL AND (
    SELECT count(pg_notify('kombu_' || sleeper.consumer_id, ''))
    FROM (
        SELECT subscription.consumer_id
        FROM kombu_subscription AS subscription
        WHERE subscription.queue_id = queue.id AND subscription.asleep
          AND (%(eta)s IS NULL OR %(eta)s < now() + interval '2 seconds')
        ORDER BY subscription.slept_at DESC
        LIMIT 2
    ) AS sleeper
) >= 0 ELSE true END

-- fragment: claims_again
-- The consumer of a `subscription` claims again by itself, soon. What is later than that is a clock that was set back.
(subscription.slept_at > now() AND subscription.slept_at < now() + interval '50 ms')

-- fragment: queue_and_sleep
-- The queue of `message`, which is published, and for how many seconds one of its consumers claims again by itself, 0 if
-- none does; null if none sleeps, or if the message is transient or scheduled for later.
message.queue_id, (
    SELECT CASE WHEN bool_or(subscription.asleep) THEN coalesce(
        extract(epoch FROM max(subscription.slept_at) FILTER (
            WHERE
                -- include: claims_again
        ) - now())::float,
        0
    ) END
    FROM kombu_subscription AS subscription
    WHERE subscription.queue_id = message.queue_id
      AND (
          subscription.asleep OR
          -- include: claims_again
      )
      AND %(durable)s <> 'no' AND (%(eta)s IS NULL OR %(eta)s < now() + interval '2 seconds')
)

-- fragment: sleepers_to_wake
-- Of the consumers that sleep at the queues of `woken`: see `wake`.
CROSS JOIN LATERAL (
    SELECT subscription.consumer_id, subscription.asleep,
        first_value(
            -- include: claims_again
        ) OVER latest_first AS relied_on,
        row_number() OVER latest_first AS place,
        extract(epoch FROM now() - first_value(subscription.slept_at) OVER latest_first) AS slept_s
    FROM kombu_subscription AS subscription
    WHERE subscription.queue_id = woken.queue_id
      AND (
          subscription.asleep OR
          -- include: claims_again
      )
    WINDOW latest_first AS (ORDER BY subscription.slept_at DESC)
    LIMIT 2
) AS sleeper
WHERE NOT sleeper.relied_on AND sleeper.asleep
  AND (sleeper.place = 1 OR sleeper.slept_s NOT BETWEEN 0 AND 0.1)

-- fragment: wake_sleepers
-- For each row of `touched`, notify two sleeping consumers of its queue, those that fell asleep last: one message does not
-- wake forty workers.
(
    SELECT count(pg_notify('kombu_' || sleeper.consumer_id, ''))
    FROM (SELECT queue_id, count(*) AS messages FROM touched GROUP BY queue_id) AS woken
    CROSS JOIN LATERAL (
        SELECT subscription.consumer_id
        FROM kombu_subscription AS subscription
        WHERE subscription.queue_id = woken.queue_id AND subscription.asleep
        ORDER BY subscription.slept_at DESC
        LIMIT 2 * woken.messages
    ) AS sleeper
)

-- fragment: wake_all_within
-- Notify all consumers of the queues in `touched`, unless half of the server's NOTIFY queue is used.
(
    SELECT count(pg_notify('kombu_' || subscription.consumer_id, ''))
    FROM (SELECT DISTINCT queue_id FROM touched) AS woken
    JOIN kombu_subscription AS subscription ON subscription.queue_id = woken.queue_id
    WHERE (SELECT pg_notification_queue_usage()) < 0.5
)

-- fragment: acknowledge
-- Fenced: a message that has been claimed again since stays.
DELETE FROM kombu_message AS message
WHERE message.id = ANY (%(acked_ids)s) AND NOT message.visible
  AND ((message.id, message.fence) IN (SELECT * FROM unnest(%(acked_ids)s, %(acked_fences)s))) IS TRUE

-- fragment: claim_chosen
-- The messages of `chosen`. Their time is read now, and so under the locks of their keys (`kombu_rooms`).
UPDATE kombu_message AS message
SET visible = false, consumer_id = %(consumer)s, claimed_at = clock_timestamp(),
    fence = %(fence)s + (message.fence <> 0)::integer
WHERE message.id = ANY (ARRAY(SELECT chosen.id FROM chosen))
RETURNING message.id, message.queue_id, message.fence, message.priority, message.failures, message.available_at,
    message.expires_at <= now() AS expired, message.revoked, message.flow_key, message.payload,
    date_part('epoch', message.enqueued_at) AS published_at

-- fragment: any_in_order
-- Whether a message of the queue of the row `queue` waits or runs in the order of its key: one in the line of a key, or a
-- scheduled one.
EXISTS (
    SELECT FROM kombu_message AS message
    WHERE message.queue_id = queue.id AND message.in_order AND (message.flow_key IS NOT NULL OR message.fence <> 0)
) OR EXISTS (
    SELECT FROM kombu_message AS message
    WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NOT NULL
      AND message.flow_key IS NULL AND message.in_order
)

-- fragment: bury_dead
-- The rows of `dead`, each with a `reason`, become dead letters. Their queue may be gone.
-- include: insert_dead_letter
SELECT dead.id, dead.failures, dead.enqueued_at, dead.tenant_id, queue.name, dead.task_id, dead.reason, dead.payload
FROM dead LEFT JOIN kombu_queue AS queue ON queue.id = dead.queue_id

-- fragment: remember
INSERT INTO celery_attempt (
    task_id, state, name, queue, tenant_id, worker, published_at, started_at, ended_at, error
)

-- fragment: remember_dead
-- The tasks of `dead` have ended as dead letters.
-- include: remember
SELECT
    dead.task_id, 'dead',
    -- include: short_name_in_payload
    , queue.name, dead.tenant_id, NULL, dead.enqueued_at, NULL::timestamptz, now(), dead.reason
FROM dead LEFT JOIN kombu_queue AS queue ON queue.id = dead.queue_id
WHERE dead.task_id IS NOT NULL

-- fragment: insert_dead_letter
INSERT INTO kombu_dead_letter (message_id, failures, enqueued_at, tenant_id, queue, task_id, reason, payload)

-- The states of a queue's messages. Whatever counts them includes these, for the queue of the row `queue`. Ready and
-- timed messages apart, by the index that each has: asked for both together, PostgreSQL reads those of all queues.

-- fragment: from_untimed
-- Waiting messages without a time, which are ready.
FROM kombu_message AS message
WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL

-- fragment: from_timed
-- Waiting messages with a time: ready from then on, scheduled until then.
FROM kombu_message AS message
WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NOT NULL

-- fragment: ready_count
-- What a consumer could claim now, `cap` of each kind at most; a null `cap` counts all.
(
    SELECT count(*) FROM (
        SELECT
        -- include: from_untimed
        LIMIT %(cap)s
    ) AS part
) + (
    SELECT count(*) FROM (
        SELECT
        -- include: from_timed
          AND message.available_at <= now()
        LIMIT %(cap)s
    ) AS part
)

-- fragment: scheduled_count
-- What becomes ready later, `cap` at most.
(
    SELECT count(*) FROM (
        SELECT
        -- include: from_timed
          AND message.available_at > now()
        LIMIT %(cap)s
    ) AS part
)

-- fragment: claimed_by_queue
-- What consumers have claimed, by queue. The index is by consumer, so it is read once for all queues, and reading ends
-- at ten times `cap`.
SELECT claim.queue_id, count(*) AS messages
FROM (
    SELECT message.queue_id FROM kombu_message AS message
    WHERE message.consumer_id IS NOT NULL
    LIMIT 10 * %(cap)s
) AS claim
GROUP BY claim.queue_id

-- fragment: ready_since
-- Since when the oldest ready message could have been claimed. It is looked for at the head of each priority.
least(
    (
        SELECT min(first.enqueued_at)
        FROM generate_series(0, 9) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT message.enqueued_at
            -- include: from_untimed
              AND message.priority = lane.priority
            ORDER BY message.id + 0
            LIMIT 1
        ) AS first
    ),
    (
        SELECT message.available_at
        -- include: from_timed
          AND message.available_at <= now()
        ORDER BY message.available_at
        LIMIT 1
    )
)

-- fragment: consumer_count
(SELECT count(*) FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)

-- What the views of the console show; they read no more than a caller's limits, whatever the tables hold.

-- fragment: name_in_payload
-- The task's name, which only the payload has: JSON in which Celery writes the header `task` before any other text could
-- contain `"task": "` with its quotes unescaped. A tenth of the cost of parsing, and no payload is refused. Only a name
-- with a quote in it takes a regular expression.
nullif(left(CASE
    WHEN right(split_part(split_part(payload, '"task": "', 2), '"', 1), 1) = '\' THEN
        substring(split_part(payload, '"task": "', 2) FROM '^((?:[^"\\]|\\.)*)"')
    ELSE split_part(split_part(payload, '"task": "', 2), '"', 1)
END, 255), '')

-- fragment: key_in_payload
-- What may be the header `flow_key`: its hash tells whether it is.
CASE WHEN octet_length(message.payload) <= 20000 THEN
    left(split_part(split_part(message.payload, '"flow_key": "', 2), '"', 1), 1000)
END

-- fragment: short_name_in_payload
-- The same of many rows: not of those whose payload alone would take a millisecond.
CASE WHEN octet_length(payload) <= 20000 THEN
    -- include: name_in_payload
END

-- fragment: name_of_letter
-- The same of the dead letter `letter`, whose name may have been kept.
coalesce(letter.task_name,
    -- include: name_in_payload
)

-- fragment: short_name_of_letter
-- The same of many dead letters.
coalesce(letter.task_name,
    -- include: short_name_in_payload
)

-- fragment: size_of_letter
-- Of the payload of the dead letter `letter`. A login that may not read it has its size in its place.
coalesce(
    substring(left(letter.payload, 30) FROM '^\{"withheld": ([0-9]{1,9}),')::integer, octet_length(letter.payload)
)

-- fragment: is_internal
-- Queues of remote control, events and replies, which workers and clients make for themselves.
(queue.auto_delete OR right(queue.name, 7) = '.pidbox' OR starts_with(queue.name, 'celeryev.'))

-- fragment: messages_of_task
-- All messages of a task: those that wait and those that are claimed, by the index that each has.
SELECT waiting.* FROM kombu_message AS waiting WHERE waiting.task_id = %(task_id)s AND waiting.visible
UNION ALL
SELECT claimed.* FROM kombu_message AS claimed WHERE claimed.task_id = %(task_id)s AND NOT claimed.visible

-- fragment: message_columns
-- A message as a row of a list of tasks, from the row `message`.
message.id, message.task_id,
-- include: name_in_payload
AS name,
-- include: message_state
AS state,
(SELECT queue.name FROM kombu_queue AS queue WHERE queue.id = message.queue_id) AS queue,
message.tenant_id::text, message.enqueued_at, message.available_at, message.claimed_at, message.failures,
message.consumer_id, (
    SELECT coalesce(consumer.name, consumer.hostname) FROM kombu_consumer AS consumer
    WHERE consumer.id = message.consumer_id
) AS worker

-- fragment: error_of_result
-- The type of an error, from the row `meta`. Its message is the producer's text, so what could be of it is not read: the
-- type is at the beginning of the result, as JSON or as a pickle, or else it stands where a traceback has it, after the
-- calls at its beginning. Of an exception that could not be pickled Celery stores a wrapper, with the type as its second
-- argument. `roles.sql` has the same.
CASE WHEN meta.status = 'FAILURE' OR (meta.status <> 'SUCCESS' AND meta.traceback IS NOT NULL) THEN regexp_replace(coalesce(
    substring(encode(substring(meta.result FROM 1 FOR 600), 'escape') FROM '^(?:\{"|\\200[\x02-\x05](?:\\225.{8,40})?\}(?:\\224|q.)\(?(?:\\214.|X.\\000\\000\\000))exc_type(?:": "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))UnpickleableExceptionWrapper(?:", "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))exc_message(?:": \["|(?:\\224|q.)(?:[])](?:\\224|q.))?\((?:\\214.|X.\\000\\000\\000))[^"\\]+(?:", "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))([A-Za-z_][A-Za-z0-9_.<>]*)(?:"|\\224|q)'),
    substring(encode(substring(meta.result FROM 1 FOR 600), 'escape') FROM '^(?:\{"|\\200[\x02-\x05](?:\\225.{8,40})?\}(?:\\224|q.)\(?(?:\\214.|X.\\000\\000\\000))exc_type(?:": "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))([A-Za-z_][A-Za-z0-9_.<>]*)(?:"|\\224|q)'),
    substring(left(meta.traceback, 20000) FROM '^(?:(?:  \+ Exception Group )?Traceback \(most recent call last\):\n(?:(?:  \| )?  File "[^"\n]+", line [0-9]+, in [^\n]+\n(?:(?:  \| )?    [^\n]*\n)*(?:(?:  \| )?  \[Previous line repeated [0-9]+ more times?\]\n)?)*)?(?:  \| )?([A-Za-z_][A-Za-z0-9_.<>]*)(?::|\n|$)')
), '^.*\.', '') END

-- fragment: ended_columns
-- A result as a row of a list of tasks, from the row `meta`.
meta.id, meta.task_id, meta.name, meta.status, meta.queue, meta.worker, meta.retries, meta.date_done,
-- include: error_of_result
AS error,
-- include: moments_of_result

-- fragment: ended_filter
-- The conditions of a list of ended tasks on the row `meta`; one that is null is met by all.
(%(task)s IS NULL OR strpos(meta.name, %(task)s) > 0)
AND (%(queue)s IS NULL OR meta.queue = %(queue)s)

-- fragment: failed
-- Results of tasks that did not succeed, of each status the last ended first.
SELECT one.*
FROM unnest(%(statuses)s) AS asked (status)
CROSS JOIN LATERAL (
    SELECT candidate.* FROM celery_taskmeta AS candidate
    WHERE candidate.status = asked.status
      AND candidate.status IN ('FAILURE', 'RETRY', 'REVOKED', 'REJECTED', 'IGNORED')
      AND candidate.date_done <= %(before)s AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
      AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
    ORDER BY candidate.date_done DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS one

-- fragment: failed_of_tenant
-- The same of one tenant.
SELECT one.*
FROM unnest(%(statuses)s) AS asked (status)
CROSS JOIN LATERAL (
    SELECT candidate.* FROM celery_taskmeta AS candidate
    WHERE candidate.tenant_id = %(tenant)s AND candidate.status = asked.status
      AND candidate.status IN ('FAILURE', 'RETRY', 'REVOKED', 'REJECTED', 'IGNORED')
      AND candidate.date_done <= %(before)s AND candidate.date_done >= coalesce(%(since)s, '0001-01-02')
      AND (candidate.date_done, candidate.id) < (%(before)s, %(before_id)s)
    ORDER BY candidate.date_done DESC, candidate.id DESC
    LIMIT %(scanned)s
) AS one

-- fragment: moments_of_result
-- Python has no time for PostgreSQL's `infinity`.
meta.tenant_id::text,
CASE WHEN meta.published_at BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.published_at END,
CASE WHEN meta.due_at BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.due_at END,
CASE WHEN meta.started_at BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.started_at END

-- fragment: attempt_filter
(
    attempt.state = ANY (%(states)s) AND attempt.state <> 'lost'
    OR attempt.state = 'lost' AND attempt.error = 'acknowledged early' AND 'lost' = ANY (%(states)s)
)
AND (%(task)s IS NULL OR strpos(attempt.name, %(task)s) > 0)
AND (%(queue)s IS NULL OR attempt.queue = %(queue)s)
AND (%(since)s IS NULL OR attempt.ended_at >= %(since)s)
AND (%(until)s IS NULL OR attempt.ended_at < %(until)s)
AND (
    SELECT count(*) FROM celery_taskmeta AS meta
    WHERE meta.task_id = attempt.task_id
      AND (attempt.state <> 'lost' OR meta.status IN ('SUCCESS', 'FAILURE', 'REVOKED', 'REJECTED', 'IGNORED'))
) = 0

-- fragment: attempt_columns
attempt.state, attempt.name, attempt.queue, attempt.tenant_id::text, attempt.worker, attempt.retries,
CASE WHEN attempt.published_at BETWEEN '0001-01-02' AND '9999-12-30' THEN attempt.published_at END,
CASE WHEN attempt.due_at BETWEEN '0001-01-02' AND '9999-12-30' THEN attempt.due_at END,
CASE WHEN attempt.started_at BETWEEN '0001-01-02' AND '9999-12-30' THEN attempt.started_at END,
CASE WHEN attempt.ended_at BETWEEN '0001-01-02' AND '9999-12-30' THEN attempt.ended_at END,
attempt.error, attempt.traceback

-- fragment: messages_of_queue
-- Messages of `queue` before an id, through its own indexes; of each part at most `scanned`.
SELECT candidate.* FROM (
    SELECT part.*
    FROM queue CROSS JOIN generate_series(0, 9) AS lane (priority)
    CROSS JOIN LATERAL (
        SELECT message.*
        -- include: from_untimed
          AND message.priority = lane.priority AND message.id + 0 < %(before)s
        ORDER BY message.id + 0 DESC
        LIMIT %(scanned)s
    ) AS part
    UNION ALL
    SELECT part.*
    FROM queue CROSS JOIN LATERAL (
        SELECT message.*
        -- include: from_timed
          AND message.available_at <= now()
        ORDER BY message.available_at DESC
        LIMIT %(scanned)s
    ) AS part
    WHERE part.id < %(before)s
    UNION ALL
    SELECT part.*
    FROM queue CROSS JOIN LATERAL (
        SELECT message.*
        -- include: from_timed
          AND message.available_at > now()
        ORDER BY message.available_at
        LIMIT %(scanned)s
    ) AS part
    WHERE part.id < %(before)s
    UNION ALL
    SELECT part.*
    FROM (
        SELECT message.* FROM kombu_message AS message WHERE message.consumer_id IS NOT NULL LIMIT %(scanned)s
    ) AS part
    WHERE part.queue_id = (SELECT queue.id FROM queue) AND part.id < %(before)s
) AS candidate

-- fragment: message_state
CASE
    WHEN message.visible IS NOT TRUE THEN 'running'
    WHEN message.available_at > now() THEN 'scheduled'
    ELSE 'waiting'
END

-- fragment: message_filter
-- The conditions of a list of tasks on the row `message`; one that is null is met by all.
(%(state)s IS NULL OR %(state)s =
    -- include: message_state
)
AND (%(tenant)s IS NULL OR message.tenant_id = %(tenant)s)
AND (%(since)s IS NULL OR message.enqueued_at >= %(since)s)
AND (%(until)s IS NULL OR message.enqueued_at < %(until)s)
AND (%(names)s IS NULL OR
    -- include: short_name_in_payload
    LIKE ANY (%(names)s))

-- fragment: publish_unique
-- Publish `given`: messages with unique keys in the order of these, so that two of these statements never wait for each
-- other, after the messages without one.
outcome AS MATERIALIZED (
    SELECT given.number, given.queue_id, result.written, result.first_task, result.first_state
    FROM given
    CROSS JOIN LATERAL kombu_publish_unique(
        given.queue_id, given.payload, given.priority, given.task_id, given.tenant_id::uuid, given.starts_at, given.ends_at,
        CASE WHEN given.fair AND NOT given.later THEN hashtextextended(given.flow_key, 0) END,
        CASE WHEN given.fair AND given.later THEN hashtextextended(given.flow_key, 0) END,
        given.unique_key::uuid, given.unique_until, least(given.unique_ends_at, given.ends_at),
        given.conflict, given.marker, given.delay, given.longest
    ) AS result
    WHERE given.in_order IS NOT TRUE AND NOT EXISTS (SELECT FROM given AS any_one WHERE any_one.queue_id IS NULL)
), in_line AS (
    -- Without a unique key.
    -- include: insert_message
    SELECT
        given.queue_id, given.payload, given.priority, given.task_id, given.tenant_id::uuid, given.starts_at, given.ends_at,
        CASE WHEN given.fair AND NOT given.later THEN hashtextextended(given.flow_key, 0) END,
        CASE WHEN given.fair AND given.later THEN hashtextextended(given.flow_key, 0) END,
        CASE WHEN given.fair THEN given.in_order END
    FROM given
    WHERE given.in_order AND NOT EXISTS (SELECT FROM given AS any_one WHERE any_one.queue_id IS NULL)
    ORDER BY given.number
    RETURNING queue_id
), touched AS (
    SELECT outcome.queue_id FROM outcome WHERE outcome.written
    UNION ALL
    SELECT in_line.queue_id FROM in_line
)

-- fragment: given_unique
-- As `given`, with unique keys, and with the times at which each may start and expires.
SELECT one.*, queue.id AS queue_id, queue.fair, (one.eta > clock_timestamp()) IS TRUE AS later,
    CASE WHEN one.eta > clock_timestamp() THEN one.eta WHEN queue.fair THEN clock_timestamp() END AS starts_at,
    clock_timestamp() + least(one.ttl_ms, queue.message_ttl_ms) * interval '1 millisecond' AS ends_at
FROM unnest(
    %(queues)s, %(payloads)s, %(priorities)s, %(task_ids)s, %(tenant_ids)s, %(etas)s, %(ttls_ms)s, %(flow_keys)s,
    %(in_orders)s, %(unique_keys)s, %(unique_untils)s, %(unique_ends)s, %(conflicts)s, %(markers)s, %(delays)s, %(longests)s
) WITH ORDINALITY AS one (
    queue, payload, priority, task_id, tenant_id, eta, ttl_ms, flow_key, in_order, unique_key, unique_until, unique_ends_at,
    conflict, marker, delay, longest, number
)
LEFT JOIN kombu_queue AS queue ON queue.name = one.queue
ORDER BY queue.id, one.unique_key NULLS FIRST, one.number

-- fragment: missing_and_firsts
-- The numbers (from 1) of the messages whose queue does not exist; and of those whose key another task's message holds,
-- with that task, and whether it waits, runs or was replaced.
(SELECT array_agg(given.number) FROM given WHERE given.queue_id IS NULL),
(
    SELECT array_agg(ARRAY[outcome.number::text, outcome.first_task, outcome.first_state])
    FROM outcome
    WHERE outcome.first_task IS NOT NULL
)

-- What consumers have counted.

-- fragment: sum_of_runs
-- Of the rows of `gone`, how long tasks ran.
ARRAY[
    sum(gone.ran[1]), sum(gone.ran[2]), sum(gone.ran[3]), sum(gone.ran[4]),
    sum(gone.ran[5]), sum(gone.ran[6]), sum(gone.ran[7]), sum(gone.ran[8]),
    sum(gone.ran[9]), sum(gone.ran[10]), sum(gone.ran[11]), sum(gone.ran[12]),
    sum(gone.ran[13]), sum(gone.ran[14]), sum(gone.ran[15]), sum(gone.ran[16])
]

-- fragment: sum_of_waits
-- Of the rows of `gone`, what began and ended, and how long it had waited.
sum(gone.started), sum(gone.done), sum(gone.failed), sum(gone.retried),
ARRAY[
    sum(gone.waited[1]), sum(gone.waited[2]), sum(gone.waited[3]), sum(gone.waited[4]),
    sum(gone.waited[5]), sum(gone.waited[6]), sum(gone.waited[7]), sum(gone.waited[8]),
    sum(gone.waited[9]), sum(gone.waited[10]), sum(gone.waited[11]), sum(gone.waited[12]),
    sum(gone.waited[13]), sum(gone.waited[14]), sum(gone.waited[15]), sum(gone.waited[16])
]

-- fragment: sum_counts
-- Of the rows of `gone`, added up.
-- include: sum_of_waits
,
-- include: sum_of_runs

-- fragment: fresh_minutes
-- The minutes of all queues together, by name, of those whose consumers' rows have not become one yet. A short array is copied
-- for each number that is taken out of it, unless it has been unpacked before: of 24,000 rows that is a sixth of the cost.
fresh (minute, name, started, done, failed, retried, waited, ran) AS MATERIALIZED (
    SELECT
        gone.minute, gone.name,
        -- include: sum_counts
    FROM (
        SELECT own.minute, own.name, own.started, own.done, own.failed, own.retried,
            own.waited || '{}'::integer[] AS waited, own.ran || '{}'::integer[] AS ran
        FROM celery_minute AS own
        WHERE own.minute >= %(since)s AND own.minute < %(before)s AND own.consumer_id <> 0
        OFFSET 0  -- or they are unpacked for each number
    ) AS gone
    GROUP BY gone.minute, gone.name
)

-- fragment: named_minutes
-- With the sums of the others: how long tasks ran.
SELECT known.minute, known.name, known.started, known.done, known.failed, known.retried, known.ran || '{}'::integer[] AS ran
FROM celery_minute_sum AS known
WHERE NOT known.whole AND known.minute >= %(since)s AND known.minute < %(before)s
UNION ALL
SELECT
    fresh.minute, fresh.name, fresh.started::integer, fresh.done::integer, fresh.failed::integer, fresh.retried::integer,
    fresh.ran::integer[]
FROM fresh

-- fragment: whole_minutes
-- The same, of all names together: how long tasks waited.
SELECT known.minute, known.started, known.done, known.failed, known.retried, known.waited || '{}'::integer[] AS waited
FROM celery_minute_sum AS known
WHERE known.whole AND known.minute >= %(since)s AND known.minute < %(before)s
UNION ALL
SELECT
    fresh.minute, fresh.started::integer, fresh.done::integer, fresh.failed::integer, fresh.retried::integer,
    fresh.waited::integer[]
FROM fresh

-- fragment: add_counts
-- Of a row that is there, to `kept`.
started = kept.started + excluded.started, done = kept.done + excluded.done,
failed = kept.failed + excluded.failed, retried = kept.retried + excluded.retried,
waited = ARRAY[
    kept.waited[1] + excluded.waited[1], kept.waited[2] + excluded.waited[2], kept.waited[3] + excluded.waited[3],
    kept.waited[4] + excluded.waited[4], kept.waited[5] + excluded.waited[5], kept.waited[6] + excluded.waited[6],
    kept.waited[7] + excluded.waited[7], kept.waited[8] + excluded.waited[8], kept.waited[9] + excluded.waited[9],
    kept.waited[10] + excluded.waited[10], kept.waited[11] + excluded.waited[11], kept.waited[12] + excluded.waited[12],
    kept.waited[13] + excluded.waited[13], kept.waited[14] + excluded.waited[14], kept.waited[15] + excluded.waited[15],
    kept.waited[16] + excluded.waited[16]
],
ran = ARRAY[
    kept.ran[1] + excluded.ran[1], kept.ran[2] + excluded.ran[2], kept.ran[3] + excluded.ran[3],
    kept.ran[4] + excluded.ran[4], kept.ran[5] + excluded.ran[5], kept.ran[6] + excluded.ran[6],
    kept.ran[7] + excluded.ran[7], kept.ran[8] + excluded.ran[8], kept.ran[9] + excluded.ran[9],
    kept.ran[10] + excluded.ran[10], kept.ran[11] + excluded.ran[11], kept.ran[12] + excluded.ran[12],
    kept.ran[13] + excluded.ran[13], kept.ran[14] + excluded.ran[14], kept.ran[15] + excluded.ran[15],
    kept.ran[16] + excluded.ran[16]
]

-- fragment: unless_it_has_ended
-- Replace the state `meta` of a task that is stored already: a success stays, and no retry replaces another end.
ON CONFLICT (task_id) DO UPDATE
SET status = excluded.status, result = excluded.result, date_done = excluded.date_done,
    traceback = excluded.traceback, children = excluded.children,
    -- include: keep_what_is_known
WHERE excluded.status = 'SUCCESS'
    OR (meta.status IS DISTINCT FROM 'SUCCESS')
    AND NOT (excluded.status = 'RETRY' AND meta.status IN ('FAILURE', 'REVOKED'))

-- fragment: one_outcome
-- The outcome of one task is stored, its message is acknowledged, and who waits for it is in `awaited`.
stored AS (
    INSERT INTO celery_taskmeta AS meta (
        id, task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue,
        tenant_id, root_id, parent_id, published_at, due_at, started_at
    )
    VALUES (
        nextval('task_id_sequence'), %(task_id)s, %(status)s, %(result)s, %(date_done)s, %(traceback)s, %(children)s,
        %(task_name)s, %(args)s, %(kwargs)s, %(worker)s, %(retries)s, %(queue)s, %(tenant_id)s, %(root_id)s,
        %(parent_id)s, to_timestamp(%(published_at)s), to_timestamp(%(due_at)s), to_timestamp(%(started_at)s)
    )
    -- include: unless_it_has_ended
), settled AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = %(acked_id)s AND message.fence = %(acked_fence)s AND NOT message.visible
), awaited AS (
    DELETE FROM celery_waiter AS waiter
    WHERE waiter.task_id = %(task_id)s AND waiter.listener = ANY (ARRAY(
        SELECT candidate.listener FROM celery_waiter AS candidate
        WHERE candidate.task_id = %(task_id)s AND %(final)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING waiter.listener, waiter.slot
)

-- fragment: awaited
-- Who waits for the tasks of `given` that have ended is removed from those who wait.
free AS MATERIALIZED (
    SELECT candidate.task_id, candidate.listener
    FROM celery_waiter AS candidate
    WHERE candidate.task_id = ANY (ARRAY(SELECT given.task_id FROM given WHERE given.final))
    FOR UPDATE SKIP LOCKED
), awaited AS (
    DELETE FROM celery_waiter AS waiter
    WHERE waiter.task_id = ANY (ARRAY(SELECT free.task_id FROM free))
      AND ((waiter.task_id, waiter.listener) IN (SELECT free.task_id, free.listener FROM free)) IS TRUE
    RETURNING waiter.listener, waiter.slot
)

-- fragment: notify_awaited
-- Listeners are notified of what is in `awaited`.
(
    SELECT count(pg_notify('celery_result_' || one.listener, one.slots))
    FROM (
        SELECT awaited.listener, string_agg(awaited.slot::text, ' ') AS slots FROM awaited GROUP BY awaited.listener
    ) AS one
)

-- fragment: limit_columns
found.queue_id, queue.name, found.key, found.max_running, found.per_second, found.burst, found.refuse, found.weight,
found.changed_at,
-- include: limit_use

-- fragment: limit_use
-- What runs and what waits of the key of a limit or, for those of each key and of the whole queue, of all keys, and for how
-- many seconds its throttle is closed.
CASE WHEN found.flow_key <> 0 THEN (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = found.queue_id AND message.flow_key = found.flow_key AND NOT message.visible
          AND message.flow_key IS NOT NULL
        LIMIT %(running_cap)s
    ) AS part
) ELSE (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = found.queue_id AND NOT message.visible AND message.flow_key IS NOT NULL
        LIMIT %(running_cap)s
    ) AS part
) END,
CASE WHEN found.flow_key <> 0 THEN (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = found.queue_id AND message.flow_key = found.flow_key AND message.visible
          AND message.flow_key IS NOT NULL AND message.failures = 0
        LIMIT %(cap)s
    ) AS part
) ELSE (
    SELECT count(*) FROM (
        SELECT FROM kombu_message AS message
        WHERE message.queue_id = found.queue_id AND message.visible
          AND message.flow_key IS NOT NULL AND message.failures = 0
        LIMIT %(cap)s
    ) AS part
) END,
(
    SELECT greatest(extract(epoch FROM throttle.free_at - now()) - (found.burst - 1) / found.per_second, 0)::float
    FROM kombu_throttle AS throttle
    WHERE throttle.queue_id = found.queue_id AND throttle.flow_key = found.flow_key AND found.per_second > 0
      AND throttle.free_at > now() + (found.burst - 1) / found.per_second * interval '1 second'
)

-- fragment: keep_what_is_known
-- What is stored without a request, by a program for example, says nothing of these, and deletes none of it. Only the time
-- when a task is due may end: a retry may have none.
name = coalesce(excluded.name, meta.name), args = coalesce(excluded.args, meta.args),
kwargs = coalesce(excluded.kwargs, meta.kwargs), worker = coalesce(excluded.worker, meta.worker),
retries = coalesce(excluded.retries, meta.retries), queue = coalesce(excluded.queue, meta.queue),
tenant_id = coalesce(excluded.tenant_id, meta.tenant_id), root_id = coalesce(excluded.root_id, meta.root_id),
parent_id = coalesce(excluded.parent_id, meta.parent_id),
published_at = coalesce(excluded.published_at, meta.published_at),
due_at = CASE WHEN excluded.published_at IS NULL AND excluded.due_at IS NULL THEN meta.due_at ELSE excluded.due_at END,
started_at = coalesce(excluded.started_at, meta.started_at)

-- fragment: abandoned
-- A `queue` that is past its expiry, or that is auto-delete and had a consumer, and has none now.
(
    queue.expires_ms IS NOT NULL AND queue.used_at
        < now() - least(greatest(queue.expires_ms, 0), 100000000000000) * interval '1 millisecond'
    OR queue.auto_delete AND queue.consumed AND queue.used_at < now() - interval '10 seconds'
) AND NOT EXISTS (SELECT FROM kombu_subscription AS subscription WHERE subscription.queue_id = queue.id)

-- fragment: expired
-- A `candidate` whose time by Kombu's `expiration` or `x-message-ttl` is over.
candidate.visible AND candidate.expires_at <= now()

-- fragment: idle_throttle
-- A `throttle` whose places are all free.
throttle.free_at < now() - interval '1 second'

-- fragment: keyed_though_unfair
-- The indexes are read at the first entry of each queue.
WITH RECURSIVE ready AS (
    (
        SELECT first.queue_id FROM kombu_message AS first
        WHERE first.visible AND first.flow_key IS NOT NULL AND first.failures = 0 ORDER BY first.queue_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT following.queue_id FROM kombu_message AS following
        WHERE following.visible AND following.flow_key IS NOT NULL AND following.failures = 0
          AND following.queue_id > ready.queue_id
        ORDER BY following.queue_id LIMIT 1
    )
    FROM ready WHERE ready.queue_id IS NOT NULL
)
SELECT found.queue_id
FROM ready AS found JOIN kombu_queue AS queue ON queue.id = found.queue_id
WHERE NOT queue.fair

-- fragment: claimed_by_nobody
-- The messages that consumers have claimed that no longer exist. They are looked for between the ids of those that exist,
-- because a live consumer's finished claims stay in the index while a long transaction is open (a million are 0.8 s).
(
    SELECT lag(consumer.id, 1, -1::bigint) OVER (ORDER BY consumer.id) AS below, consumer.id AS above
    FROM kombu_consumer AS consumer
    UNION ALL
    SELECT coalesce(max(consumer.id), -1), 9223372036854775807 FROM kombu_consumer AS consumer
) AS gap
CROSS JOIN LATERAL (
    SELECT candidate.consumer_id
    FROM kombu_message AS candidate
    WHERE candidate.consumer_id > gap.below AND candidate.consumer_id < gap.above
    OFFSET 0
) AS message
