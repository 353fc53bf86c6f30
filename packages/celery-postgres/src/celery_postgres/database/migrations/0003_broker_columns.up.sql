-- What the broker adds to stock Kombu's two tables. Every added column has a default or may be null, so that stock
-- producers and consumers go on. None rewrites a table: PostgreSQL stores a constant default once.

-- step: add columns to kombu_queue
-- unless: 6 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_queue') AND NOT attisdropped
--   AND attname IN ('auto_delete', 'expires_ms', 'message_ttl_ms', 'consumed', 'paused', 'used_at'))
ALTER TABLE kombu_queue
    ADD COLUMN IF NOT EXISTS auto_delete boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS expires_ms bigint,
    ADD COLUMN IF NOT EXISTS message_ttl_ms bigint,
    ADD COLUMN IF NOT EXISTS consumed boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS paused boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS used_at timestamptz NOT NULL DEFAULT now();

-- step: add columns to kombu_message
-- unless: 11 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_message') AND NOT attisdropped
--   AND attname IN ('task_id', 'tenant_id', 'enqueued_at', 'available_at', 'expires_at', 'consumer_id', 'claimed_at',
--   'fence', 'priority', 'failures', 'revoked'))
ALTER TABLE kombu_message
    ADD COLUMN IF NOT EXISTS task_id text,
    ADD COLUMN IF NOT EXISTS tenant_id uuid,
    ADD COLUMN IF NOT EXISTS enqueued_at timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS available_at timestamptz,
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS consumer_id bigint,
    ADD COLUMN IF NOT EXISTS claimed_at timestamptz,
    ADD COLUMN IF NOT EXISTS fence bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS failures smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS revoked boolean NOT NULL DEFAULT false;

-- A role that may only publish chooses no id: forty uncommitted rows with the next ids would make every publish wait for
-- that transaction.
-- step: set the defaults of kombu_queue
-- unless: 1 = (SELECT count(*) FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid
--   AND a.attnum = d.adnum WHERE d.adrelid = to_regclass('kombu_queue') AND a.attname = 'id')
ALTER TABLE kombu_queue ALTER COLUMN id SET DEFAULT nextval('queue_id_sequence');

-- A message in a caller's transaction is enqueued when it is written, not when that transaction began.
-- step: set the defaults of kombu_message
-- unless: 3 = (SELECT count(*) FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid
--   AND a.attnum = d.adnum WHERE d.adrelid = to_regclass('kombu_message') AND a.attname IN ('id', 'visible', 'version'))
--   AND EXISTS (SELECT FROM pg_attrdef WHERE adrelid = to_regclass('kombu_message')
--   AND pg_get_expr(adbin, adrelid) = 'clock_timestamp()')
ALTER TABLE kombu_message
    ALTER COLUMN id SET DEFAULT nextval('message_id_sequence'),
    ALTER COLUMN visible SET DEFAULT true,
    ALTER COLUMN version SET DEFAULT 1,
    ALTER COLUMN enqueued_at SET DEFAULT clock_timestamp();

-- Every message dies twice, as a ready row and as a claimed one: the default of one fifth of the table comes too late.
-- This lock stops no reader and no writer.
-- step: vacuum kombu_message earlier
-- unless: EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('kombu_message') AND reloptions @> ARRAY[
--   'autovacuum_vacuum_scale_factor=0.02', 'autovacuum_vacuum_threshold=5000', 'autovacuum_vacuum_cost_limit=2000'])
ALTER TABLE kombu_message SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_limit = 2000
);
