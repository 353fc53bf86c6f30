-- Keys whose tasks run one after another. Every column may be null, so older publishers and workers go on.

-- True for a message that runs in the order of its key, in a fair queue; null for all others.
-- step: add the order to kombu_message
ALTER TABLE kombu_message ADD COLUMN IF NOT EXISTS in_order boolean;

-- The line of a key: what is ready, what runs, and what has run and waits for its next attempt. Not what is scheduled and
-- has never run: it takes its place when it is due.
-- concurrently: ix_kombu_message_order on kombu_message
CREATE INDEX CONCURRENTLY ix_kombu_message_order ON kombu_message (queue_id, coalesce(flow_key, flow_later), id)
    WHERE in_order AND (flow_key IS NOT NULL OR fence <> 0);

-- Whether a key in order may have its turn: `places` is 1 or 0. No message after `newest` may be claimed. VOLATILE, so that
-- it sees what others committed before the lock was taken, as in `kombu_room`, whose lock it is.
-- step: create the function kombu_room_in_order
CREATE OR REPLACE FUNCTION kombu_room_in_order(
    asked_queue bigint, asked_key bigint, share bigint,
    OUT places bigint, OUT opens_in double precision, OUT newest bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    first record;
BEGIN
    places := least(share, 1);
    IF places <= 0 THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashint8extended(asked_key, asked_queue)) THEN
        places := 0;
        opens_in := 0.02;
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM kombu_message AS running
        WHERE running.queue_id = asked_queue AND running.flow_key = asked_key
          AND NOT running.visible AND running.flow_key IS NOT NULL
    ) THEN
        places := 0;
        RETURN;
    END IF;
    SELECT message.id, extract(epoch FROM message.available_at - clock_timestamp())::double precision AS due_in,
        message.flow_key IS NOT NULL AS ready
    INTO first
    FROM kombu_message AS message
    WHERE message.queue_id = asked_queue AND coalesce(message.flow_key, message.flow_later) = asked_key
      AND message.in_order AND (message.flow_key IS NOT NULL OR message.fence <> 0)
    ORDER BY message.id
    LIMIT 1;
    newest := first.id;
    IF first.due_in > 0 OR NOT first.ready THEN
        places := 0;
        opens_in := greatest(first.due_in, 0.02);
    END IF;
END
$$;

-- step: let those publish in order who may publish to fair queues
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT DISTINCT acl.grantee::regrole AS grantee
        FROM (
            SELECT (aclexplode(a.attacl)).* FROM pg_attribute AS a
            WHERE a.attrelid = 'kombu_message'::regclass AND a.attname = 'flow_later'
        ) AS acl
        WHERE acl.privilege_type = 'INSERT' AND acl.grantee <> 0
    LOOP
        EXECUTE format('GRANT INSERT (in_order) ON kombu_message TO %s', one.grantee);
    END LOOP;
END
$$;
