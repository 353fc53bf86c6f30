-- A unique task that replaces a waiting one decides how long the key is held from then on.

-- Publishes one message, which holds a key if `new_until` is not null. Returns whether a message was written or replaced;
-- and the task of the message that holds the key, if it is another, and whether that one waits, runs or was replaced.
--
-- `conflict`: `return` and `raise` write nothing; `replace` writes over the message that waits, which
-- then holds the key for as long as the new one would; `keep`, of a retry, writes a message without a key. `marker`
-- stands for the task's id in the payload. `delay` and `longest` are of a debounced task.
--
-- A publisher may neither read nor change messages, so the function runs as the owner. A transaction that has published the
-- key and has not ended is waited for, for 5 s from the start of the statement, or for as long as `lock_timeout` says if
-- that is less.
-- step: replace the function kombu_publish_unique
DO $$
BEGIN
    EXECUTE format(
        $create$
        CREATE OR REPLACE FUNCTION kombu_publish_unique(
            new_queue bigint, new_payload text, new_priority smallint, new_task text, new_tenant uuid,
            new_available timestamptz, new_expires timestamptz, new_flow bigint, new_later bigint,
            new_unique uuid, new_until smallint, new_ends timestamptz,
            conflict text, marker text, delay double precision, longest double precision,
            OUT written boolean, OUT first_task text, OUT first_state text
        ) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = %I, pg_temp
        AS $function$
        DECLARE
            given_patience text := current_setting('lock_timeout');
            patience_s double precision := least(5, nullif(extract(epoch FROM given_patience::interval), 0));
            holder record;
            settled boolean := false;
        BEGIN
            -- Before the id is drawn: consumers pass an id over once the transactions that ran then have ended, and this
            -- one may wait.
            PERFORM pg_current_xact_id();
            IF delay IS NOT NULL THEN
                new_available := clock_timestamp() + least(delay, longest) * interval '1 second';
                new_later := coalesce(new_later, new_flow);
                new_flow := NULL;
            END IF;
            written := false;
            FOR attempt IN 1..100 LOOP
                IF new_until IS NOT NULL THEN
                    PERFORM set_config('lock_timeout', greatest(1, ceil(
                        1000 * (patience_s - extract(epoch FROM clock_timestamp() - statement_timestamp()))
                    ))::bigint::text, true);
                END IF;
                INSERT INTO kombu_message (
                    queue_id, payload, priority, task_id, tenant_id, available_at, expires_at, flow_key, flow_later,
                    unique_key, unique_until, unique_ends_at
                ) VALUES (
                    new_queue, coalesce(replace(new_payload, '"' || marker || '"', to_json(new_task)::text), new_payload),
                    new_priority, new_task, new_tenant, new_available, new_expires, new_flow, new_later,
                    new_unique, new_until, new_ends
                )
                ON CONFLICT (queue_id, unique_key)
                    WHERE unique_until > 0 AND NOT revoked AND (unique_until %% 2 = 0 OR fence = 0) DO NOTHING;
                IF FOUND THEN
                    written := true;
                    settled := true;
                    EXIT;
                END IF;
                SELECT message.id, message.task_id, message.visible, message.enqueued_at, message.unique_until,
                    message.unique_ends_at
                INTO holder
                FROM kombu_message AS message
                WHERE message.queue_id = new_queue AND message.unique_key = new_unique AND message.unique_until > 0
                  AND NOT message.revoked AND (message.unique_until %% 2 = 0 OR message.fence = 0);
                CONTINUE WHEN NOT FOUND;  -- it is gone
                -- Expired; or this is a retry of the task that runs.
                IF holder.visible AND holder.unique_ends_at <= clock_timestamp()
                    OR NOT holder.visible AND holder.task_id = new_task
                THEN
                    UPDATE kombu_message AS message SET unique_until = -message.unique_until
                    WHERE message.id = holder.id AND message.visible = holder.visible AND message.unique_until > 0;
                    CONTINUE;
                ELSIF holder.task_id = new_task AND conflict <> 'replace' THEN
                    settled := true;  -- the same publish once more, whose answer was lost
                    EXIT;
                ELSIF conflict = 'keep' THEN
                    new_unique := NULL;
                    new_until := NULL;
                    CONTINUE;
                ELSIF conflict = 'replace' AND holder.visible AND holder.unique_until <= 2 THEN
                    UPDATE kombu_message AS message
                    SET payload = coalesce(
                            replace(new_payload, '"' || marker || '"', to_json(message.task_id)::text), new_payload
                        ),
                        priority = new_priority, expires_at = new_expires, unique_until = new_until, unique_ends_at = new_ends,
                        flow_key = new_flow, flow_later = new_later,
                        -- Never null: a ready message without a time, with an old id, might be behind the consumers' scans.
                        available_at = coalesce(
                            least(new_available, holder.enqueued_at + longest * interval '1 second'), clock_timestamp()
                        )
                    WHERE message.id = holder.id AND message.visible AND message.unique_until > 0
                      AND NOT message.revoked AND (message.unique_until %% 2 = 0 OR message.fence = 0);
                    CONTINUE WHEN NOT FOUND;
                    written := true;
                END IF;
                first_task := nullif(holder.task_id, new_task);
                first_state := CASE WHEN written THEN 'replaced' WHEN holder.visible THEN 'waits' ELSE 'runs' END;
                settled := true;
                EXIT;
            END LOOP;
            IF NOT settled THEN
                RAISE serialization_failure USING MESSAGE = 'the messages of a unique key come and go too fast';
            END IF;
            IF given_patience <> current_setting('lock_timeout') THEN
                PERFORM set_config('lock_timeout', given_patience, true);
            END IF;
        END
        $function$
        $create$,
        current_schema()
    );
END
$$;
