-- Claims of messages, and what becomes of them.

-- name: claim
-- Acknowledge claims and claim waiting messages, in one round trip.
--
-- Acks are fenced: a message that has been claimed again since stays. The messages are claimed by `consumer` under
-- `fence`, which its process has drawn: ids and counters repeat when a database goes back in time (a restore, a standby
-- that lagged), and the late ack of an old claim would delete a new message. It is even; that of a message
-- which was claimed before is one more. Messages of `auto_ack_queues` (consumed without acks) are deleted as they are
-- claimed. No lock is waited for.
-- `lanes` are queue, priority and the lowest id that can still be ready there, in order of preference: beginning each
-- claim at that id keeps 20,000 messages/s when a long transaction keeps the dead index entries alive, where a plain
-- scan falls to 1,000. (`id + 0` is the expression of the index ix_kombu_message_ready.) A message that has failed
-- before comes first among those of its priority in its queue, and alone.
-- `may_sleep`: note in the subscriptions whether publishers have to notify this consumer from now on, or, if nothing was
-- claimed, from `polls_in` seconds on: until then it claims again by itself. Those of a queue without acks always have
-- to, unless `awake_from` is given and so many of its messages were claimed.
--
-- Returns one row for the claim, and one for each message. The first has the snapshot in which the claim saw the table;
-- `due_in`, if nothing was claimed: the number of seconds to the next scheduled message of the coming day; and whether a
-- message that has failed before was there, and kept others from being claimed. The commit is not waited for: a message
-- whose claim or ack a crashing server forgets runs again.
-- takes: consumer bigint, fence bigint, acked_ids bigint[], acked_fences bigint[], queues bigint[],
--   lane_queues bigint[], lane_priorities smallint[], lane_ids bigint[], limit bigint,
--   auto_ack_queues bigint[], auto_ack_limit bigint, may_sleep boolean, polls_in float, awake_from bigint
WITH settled AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (%(acked_ids)s) AND NOT message.visible
      AND ((message.id, message.fence) IN (SELECT * FROM unnest(%(acked_ids)s, %(acked_fences)s))) IS TRUE
), failed_before AS MATERIALIZED (
    SELECT message.id, message.queue_id, message.priority
    FROM unnest(%(queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.queue_id, candidate.priority
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures > 0
          AND candidate.available_at <= now()
        ORDER BY candidate.priority DESC, candidate.available_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT 1
), due AS MATERIALIZED (
    SELECT message.id, message.queue_id, message.priority
    FROM unnest(%(queues)s || %(auto_ack_queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.queue_id, candidate.priority
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures = 0
          AND candidate.available_at IS NOT NULL AND candidate.available_at <= now()
        ORDER BY candidate.available_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT %(limit)s
), ready AS MATERIALIZED (
    SELECT message.id, message.queue_id, message.priority
    FROM unnest(%(lane_queues)s, %(lane_priorities)s, %(lane_ids)s) AS lane (queue_id, priority, lowest_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.queue_id, candidate.priority
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = lane.queue_id AND candidate.priority = lane.priority
          AND candidate.id + 0 >= lane.lowest_id AND candidate.visible AND candidate.available_at IS NULL
        ORDER BY candidate.id + 0
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT %(limit)s
), auto_ack AS MATERIALIZED (
    SELECT message.id, message.queue_id
    FROM unnest(%(auto_ack_queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.queue_id
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.available_at IS NULL
        ORDER BY candidate.priority DESC, candidate.id + 0
        LIMIT %(auto_ack_limit)s
        FOR UPDATE SKIP LOCKED
    ) AS message
), better AS MATERIALIZED (
    -- Than a message that has failed before, if there is one.
    SELECT waiting.id, waiting.queue_id, waiting.priority
    FROM (
        SELECT due.id, due.queue_id, due.priority FROM due WHERE due.queue_id <> ALL (%(auto_ack_queues)s)
        UNION ALL
        SELECT ready.id, ready.queue_id, ready.priority FROM ready
    ) AS waiting
    WHERE (waiting.queue_id = (SELECT failed_before.queue_id FROM failed_before)) IS NOT FALSE
      AND (waiting.priority > (SELECT failed_before.priority FROM failed_before)) IS NOT FALSE
    ORDER BY waiting.priority DESC, waiting.id
    LIMIT %(limit)s
), chosen AS MATERIALIZED (
    SELECT better.id, better.queue_id FROM better
    UNION ALL
    SELECT failed_before.id, failed_before.queue_id FROM failed_before WHERE NOT EXISTS (SELECT FROM better)
), claimed AS (
    UPDATE kombu_message AS message
    SET visible = false, consumer_id = %(consumer)s, claimed_at = now(),
        fence = %(fence)s + (message.fence <> 0)::integer
    WHERE message.id = ANY (ARRAY(SELECT chosen.id FROM chosen))
    RETURNING message.id, message.queue_id, message.fence, message.priority, message.failures, message.available_at,
        message.expires_at <= now() AS expired, message.revoked, message.payload
), auto_acked AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(
        SELECT auto_ack.id FROM auto_ack
        UNION ALL
        SELECT due.id FROM due WHERE due.queue_id = ANY (%(auto_ack_queues)s)
    ))
    RETURNING message.id, message.queue_id, message.fence, message.priority, message.failures, message.available_at,
        message.expires_at <= now() AS expired, message.revoked, message.payload
), marked AS (
    UPDATE kombu_subscription AS subscription
    SET asleep = NOT subscription.asleep,
        slept_at = now() + (CASE WHEN EXISTS (SELECT FROM chosen) THEN 0 ELSE %(polls_in)s END) * interval '1 second'
    WHERE %(may_sleep)s
      AND subscription.consumer_id = %(consumer)s
      AND (
          subscription.queue_id = ANY (%(queues)s)
          AND subscription.asleep = (
              subscription.queue_id IN (SELECT chosen.queue_id FROM chosen) OR EXISTS (SELECT FROM failed_before)
          )
          OR subscription.queue_id = ANY (%(auto_ack_queues)s)
          AND subscription.asleep = ((
              (SELECT count(*) FROM auto_ack WHERE auto_ack.queue_id = subscription.queue_id) >= %(awake_from)s
          ) IS TRUE)
      )
)
SELECT
    CASE WHEN set_config('synchronous_commit', 'off', true) = 'off' THEN pg_current_snapshot()::text END AS snapshot,
    CASE WHEN NOT EXISTS (SELECT FROM chosen) AND NOT EXISTS (SELECT FROM auto_ack) AND NOT EXISTS (SELECT FROM due) THEN (
        SELECT extract(epoch FROM min(following.available_at) - now())::float
        FROM unnest(%(queues)s || %(auto_ack_queues)s) AS asked (queue_id)
        CROSS JOIN LATERAL (
            SELECT candidate.available_at
            FROM kombu_message AS candidate
            WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.available_at IS NOT NULL
              AND candidate.available_at < now() + interval '1 day'
            ORDER BY candidate.available_at
            LIMIT 1
        ) AS following
    ) END AS due_in,
    EXISTS (SELECT FROM failed_before) AS one_had_failed,
    NULL AS id, NULL AS queue_id, NULL AS fence, NULL AS priority, NULL AS failures, NULL AS available_at, NULL AS expired,
    NULL AS revoked, NULL AS payload
UNION ALL
SELECT NULL, NULL, NULL, claimed.* FROM claimed
UNION ALL
SELECT NULL, NULL, NULL, auto_acked.* FROM auto_acked

-- name: settle
-- repeatable
-- Acknowledge alone, when no claim comes soon. Fenced as in `claim`.
-- takes: acked_ids bigint[], acked_fences bigint[]
WITH settled AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (%(acked_ids)s) AND NOT message.visible
      AND ((message.id, message.fence) IN (SELECT * FROM unnest(%(acked_ids)s, %(acked_fences)s))) IS TRUE
    RETURNING message.id
)
SELECT set_config('synchronous_commit', 'off', true), (SELECT count(*) FROM settled)

-- name: settle_forgotten
-- Acknowledge again the messages that a crash of the server has made ready again, by the marks that their publishers have
-- put into them: the claim was forgotten with the ack.
-- takes: ids bigint[], marks text[]
DELETE FROM kombu_message AS message
WHERE message.id = ANY (%(ids)s) AND message.visible AND EXISTS (
    SELECT FROM unnest(%(ids)s, %(marks)s) AS given (id, mark)
    WHERE given.id = message.id AND position(given.mark IN message.payload) > 0
)

-- name: release
-- Release claims: the messages are available at once, or `pause` seconds from now, under a new fence. `failed`: Celery
-- had them, and this counts as a failure of each; a message that reaches `max_failures` becomes a dead letter instead,
-- whose reason is `reason` with the number of its failures. Returns how many sleepers were woken, how many of the claims
-- were still held, and the dead letters: id, queue (empty if it is gone) and number of failures.
-- takes: ids bigint[], fences bigint[], failed boolean, max_failures smallint, reason text, pause float
WITH given AS MATERIALIZED (
    SELECT message.id, least(message.failures + %(failed)s::integer, 32767) AS failures
    FROM unnest(%(ids)s, %(fences)s) AS given (id, fence)
    JOIN kombu_message AS message ON message.id = given.id
    WHERE message.id = ANY (%(ids)s) AND message.fence = given.fence AND NOT message.visible
    FOR UPDATE OF message
), dead AS (
    DELETE FROM kombu_message AS message
    USING given
    WHERE message.id = ANY (%(ids)s) AND message.id = given.id AND given.failures >= %(max_failures)s
    RETURNING message.id, message.queue_id, given.failures, message.enqueued_at, message.tenant_id, message.task_id,
        format(%(reason)s, given.failures) AS reason, message.payload
), buried AS (
    -- include: bury_dead
), released AS (
    UPDATE kombu_message AS message
    SET visible = true, consumer_id = NULL, claimed_at = NULL,
        fence = CASE WHEN message.fence < 9223372036854775807 THEN message.fence + 1 ELSE 2 END,
        failures = given.failures, available_at = now() + %(pause)s * interval '1 second'
    FROM given
    WHERE message.id = ANY (%(ids)s) AND message.id = given.id AND given.failures < %(max_failures)s
    RETURNING message.queue_id
)
SELECT
    count(pg_notify('kombu_' || sleeper.consumer_id, '')),
    (SELECT count(*) FROM given),
    (
        SELECT array_agg(ARRAY[dead.id::text, coalesce(queue.name, ''), dead.failures::text])
        FROM dead LEFT JOIN kombu_queue AS queue ON queue.id = dead.queue_id
    )
FROM (SELECT DISTINCT released.queue_id FROM released) AS touched
CROSS JOIN LATERAL (
    SELECT subscription.consumer_id
    FROM kombu_subscription AS subscription
    WHERE subscription.queue_id = touched.queue_id AND subscription.asleep
    ORDER BY subscription.slept_at DESC
    LIMIT 2
) AS sleeper

-- name: defer
-- repeatable
-- Release claims whose ETA has not come, by this server's clock, until it comes: a message of stock Kombu carries its
-- ETA in a header alone. Returns the ids that were released; the others may be delivered.
-- takes: ids bigint[], fences bigint[], etas timestamptz[]
UPDATE kombu_message AS message
SET visible = true, consumer_id = NULL, claimed_at = NULL, available_at = given.eta
FROM unnest(%(ids)s, %(fences)s, %(etas)s) AS given (id, fence, eta)
WHERE message.id = ANY (%(ids)s) AND message.id = given.id AND message.fence = given.fence AND NOT message.visible
  AND given.eta > now()
RETURNING message.id

-- name: bury
-- repeatable
-- Make dead letters of claimed messages.
-- takes: ids bigint[], fences bigint[], reasons text[]
WITH dead AS (
    DELETE FROM kombu_message AS message
    USING unnest(%(ids)s, %(fences)s, %(reasons)s) AS given (id, fence, reason)
    WHERE message.id = ANY (%(ids)s) AND message.id = given.id AND message.fence = given.fence AND NOT message.visible
    RETURNING message.*, given.reason
)
-- include: bury_dead
RETURNING message_id

-- name: bury_auto_acked
-- The same for a message that was deleted as it was claimed.
-- takes: message_id bigint, queue text, reason text, payload text
-- include: insert_dead_letter
VALUES (%(message_id)s, 0, NULL, NULL, %(queue)s, NULL, %(reason)s, %(payload)s)
RETURNING message_id

-- name: drop_expired_messages
-- Delete messages whose time by Kombu's `expiration` or `x-message-ttl` is over, as AMQP has it. A task becomes a dead
-- letter, an event does not.
-- takes: limit bigint, reason text
WITH dead AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(
        SELECT candidate.id FROM kombu_message AS candidate
        WHERE candidate.visible AND candidate.expires_at <= now()
        ORDER BY candidate.expires_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING message.*, %(reason)s AS reason
), buried AS (
    -- include: bury_dead
    WHERE dead.task_id IS NOT NULL
)
SELECT count(*) FROM dead

-- name: mark_revoked
-- repeatable
-- Mark waiting messages whose tasks are revoked: Celery's workers forget revokes after three hours, and a message may wait
-- for a week.
-- takes: task_ids text[]
UPDATE kombu_message AS message SET revoked = true
WHERE message.task_id = ANY (%(task_ids)s) AND message.visible AND NOT message.revoked
