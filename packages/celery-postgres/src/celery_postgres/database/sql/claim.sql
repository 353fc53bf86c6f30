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
-- before comes first among those of its priority in its queue, and alone. What has a key is left to `claim_turns`.
-- (`coalesce` keeps those that have failed from being looked for among all messages with a time.)
-- `may_sleep`: note in the subscriptions whether publishers have to notify this consumer from now on, and until when they
-- need to notify nobody (`slept_at`), because it leads: it claims again and again. It does for `polls_for` seconds if
-- nothing was claimed, unless another consumer leads in each of the queues; and for `brief_for` seconds if up to `brief`
-- messages were claimed, which are done soon. Consumers of a queue without acks always have to be notified, unless
-- `awake_from` is given and so many of its messages were claimed. `peeked` are the queues in which to look for messages
-- with keys.
--
-- Returns one row for the claim, and one for each message. The first has the snapshot in which the claim saw the table;
-- `due_in`, if nothing was claimed: the number of seconds to the next scheduled message of the coming day; whether a
-- message that has failed before was there, and kept others from being claimed; whether messages with keys are ready;
-- and, if nothing was claimed, whether another consumer leads.
-- The commit is not waited for: a message whose claim or ack a crashing server forgets runs again.
-- takes: consumer bigint, fence bigint, acked_ids bigint[], acked_fences bigint[], queues bigint[],
--   lane_queues bigint[], lane_priorities smallint[], lane_ids bigint[], limit bigint,
--   auto_ack_queues bigint[], auto_ack_limit bigint, may_sleep boolean, polls_for float, brief bigint,
--   brief_for float, awake_from bigint, peeked bigint[]
WITH settled AS (
    -- include: acknowledge
), failed_before AS MATERIALIZED (
    SELECT message.id, message.queue_id, message.priority
    FROM unnest(%(queues)s) AS asked (queue_id)
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.queue_id, candidate.priority
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures > 0
          AND coalesce(candidate.available_at, 'infinity') <= now() AND candidate.flow_key IS NULL
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
          AND candidate.flow_key IS NULL AND candidate.flow_later IS NULL
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
    -- include: claim_chosen
), auto_acked AS (
    DELETE FROM kombu_message AS message
    WHERE message.id = ANY (ARRAY(
        SELECT auto_ack.id FROM auto_ack
        UNION ALL
        SELECT due.id FROM due WHERE due.queue_id = ANY (%(auto_ack_queues)s)
    ))
    RETURNING message.id, message.queue_id, message.fence, message.priority, message.failures, message.available_at,
        message.expires_at <= now() AS expired, message.revoked, message.flow_key, message.payload,
        date_part('epoch', message.enqueued_at) AS published_at
), lead AS (
    SELECT until.relieved, until.relied_s, now() + until.relied_s * interval '1 second' AS relied_until
    FROM (
        SELECT taken.count = 0 AND %(polls_for)s > 0 AND others.claim AS relieved,
            CASE
                WHEN taken.count = 0 AND others.claim THEN 0
                WHEN taken.count = 0 THEN %(polls_for)s
                WHEN taken.count <= %(brief)s THEN %(brief_for)s
                ELSE 0
            END AS relied_s
        FROM (SELECT count(*) AS count FROM chosen) AS taken
        CROSS JOIN (
            SELECT NOT EXISTS (
                SELECT FROM unnest(%(queues)s) AS asked (queue_id)
                WHERE NOT EXISTS (
                    SELECT FROM kombu_subscription AS subscription
                    WHERE subscription.queue_id = asked.queue_id AND subscription.consumer_id <> %(consumer)s AND
                        -- include: claims_again
                )
            ) AS claim
        ) AS others
    ) AS until
), marked AS (
    UPDATE kombu_subscription AS subscription
    SET asleep = CASE
            WHEN subscription.queue_id = ANY (%(queues)s) THEN NOT (
                subscription.queue_id IN (SELECT chosen.queue_id FROM chosen) OR EXISTS (SELECT FROM failed_before)
            )
            ELSE NOT subscription.asleep
        END,
        slept_at = lead.relied_until
    FROM lead
    WHERE %(may_sleep)s
      AND subscription.consumer_id = %(consumer)s
      AND (
          subscription.queue_id = ANY (%(queues)s)
          AND (
              subscription.asleep = (
                  subscription.queue_id IN (SELECT chosen.queue_id FROM chosen) OR EXISTS (SELECT FROM failed_before)
              )
              OR CASE
                  WHEN lead.relied_s = 0 THEN subscription.slept_at > now()
                  ELSE lead.relied_until - subscription.slept_at > lead.relied_s * interval '0.5 seconds'
              END
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
        FROM (
            SELECT timed.available_at
            FROM unnest(%(queues)s || %(auto_ack_queues)s) AS asked (queue_id)
            CROSS JOIN LATERAL (
                SELECT candidate.available_at
                FROM kombu_message AS candidate
                WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.available_at IS NOT NULL
                  AND candidate.flow_key IS NULL AND candidate.available_at < now() + interval '1 day'
                ORDER BY candidate.available_at
                LIMIT 1
            ) AS timed
            UNION ALL
            -- What has failed before and has a key is in no index of scheduled messages.
            SELECT failed.available_at
            FROM unnest(%(peeked)s) AS asked (queue_id)
            CROSS JOIN LATERAL (
                SELECT min(coalesce(candidate.available_at, 'infinity')) AS available_at
                FROM kombu_message AS candidate
                WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures > 0
                  AND candidate.flow_key IS NOT NULL
                  AND coalesce(candidate.available_at, 'infinity') BETWEEN now() AND now() + interval '1 day'
            ) AS failed
        ) AS following
    ) END AS due_in,
    EXISTS (SELECT FROM failed_before) AS one_had_failed,
    EXISTS (
        SELECT FROM unnest(%(peeked)s) AS asked (queue_id)
        WHERE EXISTS (
            SELECT FROM kombu_message AS candidate
            WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.flow_key IS NOT NULL
              AND candidate.failures = 0
            OFFSET 0
        ) OR EXISTS (
            SELECT FROM kombu_message AS candidate
            WHERE candidate.queue_id = asked.queue_id AND candidate.visible AND candidate.failures > 0
              AND coalesce(candidate.available_at, 'infinity') <= now() AND candidate.flow_key IS NOT NULL
            OFFSET 0
        )
    ) AS keyed_wait,
    NULL AS closed, (SELECT lead.relieved FROM lead) AS relieved,
    NULL AS id, NULL AS queue_id, NULL AS fence, NULL AS priority, NULL AS failures, NULL AS available_at, NULL AS expired,
    NULL AS revoked, NULL AS flow_key, NULL AS payload, NULL AS published_at
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, claimed.* FROM claimed
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, auto_acked.* FROM auto_acked

-- name: claim_turns
-- Acknowledge claims and claim messages of one fair queue by turns, as `claim` does it: keys in their order, each with a
-- priority, the lowest id, and a share, which is the most that may be claimed of it. What a key's limits allow is asked
-- after the acks, under a lock of the key that is held to the commit; a key that is locked gives nothing. The limits of the
-- whole queue are asked in the same way, before those of the keys, and bound what all keys give together. A message that
-- has failed before comes first among those of its priority, and alone, if `failed` says so. Messages in order are claimed
-- from turns in order alone, one at a time, and none before an older one of its key. No lock is waited for.
--
-- Returns rows as `claim` does. The first one has the keys whose limits have allowed less than their share: how much, and
-- the seconds until it is more, if that is known; and the same of the whole queue, with a null key, if its limits have
-- allowed less than `limit`; and the clock as `published_at`. With each key whose running messages were counted comes
-- `turn_since` of its next turn, the time from which on what runs of it was claimed; how much is null there if it was not
-- less. `turn_since` counts only if the clock is at `clock` or later: what was claimed since it was set back may be before
-- these times.
-- takes: consumer bigint, fence bigint, acked_ids bigint[], acked_fences bigint[], queue bigint, limit bigint,
--   turn_keys bigint[], turn_priorities smallint[], turn_ids bigint[], turn_shares bigint[], turn_orders boolean[],
--   turn_since float[], clock float, failed boolean
WITH moment AS MATERIALIZED (
    SELECT date_part('epoch', clock_timestamp()) AS clock
), settled AS (
    -- include: acknowledge
    RETURNING message.id
), acknowledged AS MATERIALIZED (
    SELECT count(*) FROM settled
), whole AS MATERIALIZED (
    -- No row if the whole queue has no limits. Adding 0 times the count puts the acks first in any plan.
    SELECT room.*
    FROM acknowledged
    CROSS JOIN LATERAL kombu_room(%(queue)s, 0, %(limit)s + 0 * acknowledged.count) AS room
    WHERE EXISTS (SELECT FROM kombu_limit AS found WHERE found.queue_id = %(queue)s AND found.flow_key = 0)
), failed_before AS MATERIALIZED (
    SELECT message.id, message.priority, message.flow_key, room.interval_s
    FROM acknowledged
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.priority, candidate.flow_key, candidate.in_order
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = %(queue)s AND candidate.visible AND candidate.failures > 0
          AND coalesce(candidate.available_at, 'infinity') <= now() AND %(failed)s
        ORDER BY candidate.priority DESC, candidate.available_at
        LIMIT 10  -- of as many keys one may have room
        FOR UPDATE SKIP LOCKED
    ) AS message
    LEFT JOIN LATERAL kombu_room(%(queue)s, message.flow_key, 1 + 0 * acknowledged.count) AS room
        ON message.flow_key IS NOT NULL
    LEFT JOIN LATERAL (
        SELECT line.places, line.newest
        FROM kombu_room_in_order(%(queue)s, message.flow_key, 1 + 0 * acknowledged.count) AS line
        WHERE message.in_order
        OFFSET 0
    ) AS line ON true
    WHERE (room.places > 0) IS NOT FALSE AND (line.places > 0 AND line.newest = message.id) IS NOT FALSE
      AND (message.flow_key IS NULL OR coalesce((SELECT whole.places FROM whole), 1) > 0)
    LIMIT 1
), turn AS MATERIALIZED (
    -- One call for all keys, after the acks; none where no key has limits, which saves 1 us for each message.
    SELECT turn.flow_key, turn.priority, turn.lowest_id, turn.share, turn.in_order,
        coalesce(line.places, turn.places) AS places, coalesce(line.opens_in, turn.opens_in) AS opens_in,
        turn.interval_s, turn.oldest, line.newest
    FROM acknowledged
    CROSS JOIN LATERAL (
        SELECT limited.*
        FROM ROWS FROM (
            unnest(%(turn_keys)s, %(turn_priorities)s, %(turn_ids)s, %(turn_shares)s, %(turn_orders)s),
            kombu_rooms(
                %(queue)s + 0 * acknowledged.count, %(turn_keys)s, %(turn_shares)s,
                CASE WHEN (SELECT moment.clock FROM moment) >= %(clock)s THEN %(turn_since)s ELSE '{}' END
            )
        ) AS limited (flow_key, priority, lowest_id, share, in_order, places, opens_in, interval_s, oldest)
        WHERE EXISTS (SELECT FROM kombu_limit AS found WHERE found.queue_id = %(queue)s)
        UNION ALL
        SELECT free.*, free.share, NULL, NULL, NULL
        FROM unnest(%(turn_keys)s, %(turn_priorities)s, %(turn_ids)s, %(turn_shares)s, %(turn_orders)s)
            AS free (flow_key, priority, lowest_id, share, in_order)
        WHERE NOT EXISTS (SELECT FROM kombu_limit AS found WHERE found.queue_id = %(queue)s)
    ) AS turn
    LEFT JOIN LATERAL (
        SELECT line.*
        FROM kombu_room_in_order(%(queue)s, turn.flow_key, turn.places) AS line
        WHERE turn.in_order
        OFFSET 0
    ) AS line ON true
    WHERE coalesce((SELECT whole.places FROM whole), 1) > 0
), fair AS MATERIALIZED (
    SELECT message.id, message.priority, turn.flow_key, turn.interval_s
    FROM turn
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.priority
        FROM kombu_message AS candidate
        WHERE candidate.queue_id = %(queue)s AND candidate.flow_key = turn.flow_key
          AND 9 - candidate.priority = 9 - turn.priority AND candidate.id + 0 >= turn.lowest_id
          AND candidate.visible AND candidate.flow_key IS NOT NULL AND candidate.failures = 0
          AND (candidate.in_order IS NULL OR turn.in_order) AND (candidate.id <= turn.newest) IS NOT FALSE
        ORDER BY candidate.id + 0
        LIMIT turn.places
        FOR UPDATE SKIP LOCKED
    ) AS message
    LIMIT (SELECT coalesce(min(whole.places), %(limit)s) FROM whole)
), better AS MATERIALIZED (
    SELECT fair.id, fair.flow_key, fair.interval_s
    FROM fair
    WHERE (fair.priority > (SELECT failed_before.priority FROM failed_before)) IS NOT FALSE
), chosen AS MATERIALIZED (
    SELECT better.* FROM better
    UNION ALL
    SELECT failed_before.id, failed_before.flow_key, failed_before.interval_s
    FROM failed_before WHERE NOT EXISTS (SELECT FROM better)
), claimed AS (
    -- include: claim_chosen
), throttled AS (
    -- Under the locks of the key and of the queue.
    INSERT INTO kombu_throttle AS throttle (queue_id, flow_key, free_at)
    SELECT %(queue)s, charged.flow_key, clock_timestamp() + count(*) * charged.interval_s * interval '1 second'
    FROM (
        SELECT chosen.flow_key, chosen.interval_s FROM chosen
        UNION ALL
        SELECT 0, whole.interval_s FROM chosen CROSS JOIN whole WHERE chosen.flow_key IS NOT NULL
    ) AS charged
    WHERE charged.interval_s IS NOT NULL
    GROUP BY charged.flow_key, charged.interval_s
    ON CONFLICT (queue_id, flow_key) DO UPDATE
    SET free_at = excluded.free_at + greatest(throttle.free_at - clock_timestamp(), interval '0')
), marked AS (
    UPDATE kombu_subscription AS subscription SET asleep = false, slept_at = least(subscription.slept_at, now())
    WHERE subscription.consumer_id = %(consumer)s AND subscription.queue_id = %(queue)s
      AND (subscription.asleep OR subscription.slept_at > now()) AND EXISTS (SELECT FROM chosen)
)
SELECT
    CASE WHEN set_config('synchronous_commit', 'off', true) = 'off' THEN pg_current_snapshot()::text END AS snapshot,
    NULL AS due_in, EXISTS (SELECT FROM failed_before) AS one_had_failed, NULL AS keyed_wait,
    (
        SELECT json_agg(json_build_array(less.flow_key, less.places, less.opens_in, less.oldest))
        FROM (
            SELECT turn.flow_key, CASE WHEN turn.places < turn.share THEN turn.places END AS places, turn.opens_in, turn.oldest
            FROM turn
            WHERE turn.places < turn.share OR turn.oldest IS NOT NULL
            UNION ALL
            SELECT NULL, whole.places, whole.opens_in, NULL FROM whole WHERE whole.places < %(limit)s
        ) AS less
    ) AS closed,
    NULL AS relieved,
    NULL AS id, NULL AS queue_id, NULL AS fence, NULL AS priority, NULL AS failures, NULL AS available_at, NULL AS expired,
    NULL AS revoked, NULL AS flow_key, NULL AS payload, (SELECT moment.clock FROM moment) AS published_at
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, claimed.* FROM claimed

-- name: settle
-- repeatable
-- Acknowledge alone, when no claim comes soon. Fenced as in `claim`.
-- takes: acked_ids bigint[], acked_fences bigint[]
WITH settled AS (
    -- include: acknowledge
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
-- were still held, and the dead letters: id, queue (empty if it is gone) and number of failures. `worker` had them, if that is
-- known and its row is gone.
-- takes: ids bigint[], fences bigint[], failed boolean, max_failures smallint, reason text, pause float,
--   worker text
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
), lost AS (
    -- include: remember
    SELECT
        message.task_id, 'lost',
        -- include: short_name_in_payload
        , queue.name, message.tenant_id,
        coalesce(consumer.name, consumer.hostname, %(worker)s, 'consumer ' || message.consumer_id),
        message.enqueued_at, message.claimed_at, now(), NULL
    FROM given
    JOIN kombu_message AS message ON message.id = given.id
    LEFT JOIN kombu_queue AS queue ON queue.id = message.queue_id
    LEFT JOIN kombu_consumer AS consumer ON consumer.id = message.consumer_id
    WHERE message.id = ANY (%(ids)s) AND %(failed)s AND message.task_id IS NOT NULL
), died AS (
    -- include: remember_dead
), released AS (
    UPDATE kombu_message AS message
    SET visible = true, consumer_id = NULL, claimed_at = NULL,
        fence = CASE WHEN message.fence < 9223372036854775807 THEN message.fence + 1 ELSE 2 END,
        failures = given.failures, available_at = now() + %(pause)s * interval '1 second',
        flow_key = CASE WHEN given.failures > 0 OR %(pause)s = 0 THEN message.flow_key END,
        flow_later = CASE WHEN given.failures = 0 AND %(pause)s > 0 THEN message.flow_key END
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
SET visible = true, consumer_id = NULL, claimed_at = NULL, available_at = given.eta,
    flow_key = CASE WHEN message.failures > 0 THEN message.flow_key END,
    flow_later = CASE WHEN message.failures = 0 THEN message.flow_key END
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
), died AS (
    -- include: remember_dead
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
        WHERE
            -- include: expired
        ORDER BY candidate.expires_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING message.*, %(reason)s AS reason
), buried AS (
    -- include: bury_dead
    WHERE dead.task_id IS NOT NULL
), died AS (
    -- include: remember_dead
)
SELECT count(*) FROM dead

-- name: mark_revoked
-- repeatable
-- Mark waiting messages whose tasks are revoked: Celery's workers forget revokes after three hours, and a message may wait
-- for a week.
-- takes: task_ids text[]
UPDATE kombu_message AS message SET revoked = true
WHERE message.task_id = ANY (%(task_ids)s) AND message.visible AND NOT message.revoked
