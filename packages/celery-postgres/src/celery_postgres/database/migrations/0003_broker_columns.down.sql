-- Claimed messages become visible again and run again: nothing is lost.

-- step: drop the columns and defaults of kombu_message
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'kombu_message'::regclass AND attname = 'consumer_id' AND NOT attisdropped
    ) THEN
        UPDATE kombu_message SET visible = true WHERE consumer_id IS NOT NULL;
    END IF;
END
$$;
ALTER TABLE kombu_message
    DROP COLUMN IF EXISTS task_id, DROP COLUMN IF EXISTS tenant_id, DROP COLUMN IF EXISTS enqueued_at,
    DROP COLUMN IF EXISTS available_at, DROP COLUMN IF EXISTS expires_at, DROP COLUMN IF EXISTS consumer_id,
    DROP COLUMN IF EXISTS claimed_at, DROP COLUMN IF EXISTS fence, DROP COLUMN IF EXISTS priority,
    DROP COLUMN IF EXISTS failures, DROP COLUMN IF EXISTS revoked,
    ALTER COLUMN id DROP DEFAULT, ALTER COLUMN visible DROP DEFAULT, ALTER COLUMN version DROP DEFAULT;
ALTER TABLE kombu_message RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_limit
);

-- step: drop the columns and the default of kombu_queue
ALTER TABLE kombu_queue
    DROP COLUMN IF EXISTS auto_delete, DROP COLUMN IF EXISTS expires_ms, DROP COLUMN IF EXISTS message_ttl_ms,
    DROP COLUMN IF EXISTS consumed, DROP COLUMN IF EXISTS paused, DROP COLUMN IF EXISTS used_at,
    ALTER COLUMN id DROP DEFAULT;
