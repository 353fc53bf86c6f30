-- A worker without install() consumes with stock Kombu, which marks a message as taken before it runs and keeps no record
-- of who took it: if that worker is killed, the message never comes back. So the database refuses such a claim, one line
-- names the cure, and the message stays ready. Stock's publishers insert rows, which this never sees.
--
-- A trigger and not a CHECK: publishing does not pay for it; logical replication and a restored dump may bring rows that
-- stock has taken; and an operator can disable it. Its error quotes no row. feature_not_supported, because Celery
-- ends at it: at an OperationalError it would connect again at once, and again.

-- step: create the function kombu_refuse_stock
CREATE OR REPLACE FUNCTION kombu_refuse_stock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE feature_not_supported USING MESSAGE =
        'stock Kombu must not consume from this database, where it would lose tasks: call celery_postgres.install() '
        'before this program connects (or, while you move from stock: python -m celery_postgres migrate --allow-stock)';
END
$$;
REVOKE ALL ON FUNCTION kombu_refuse_stock() FROM PUBLIC;  -- PostgreSQL asks for no right when a trigger calls it

-- The setting is `migrate`'s parameter. Without it stock stays allowed where it has taken a message in the last seven days,
-- so that a migration stops no worker that somebody may need. Looked up before the table is locked.
-- step: refuse stock consumers
-- unless: EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('kombu_message') AND tgname = 'kombu_message_stock')
DO $$
DECLARE
    asked text := nullif(current_setting('celery_postgres.allow_stock', true), '');
    allowed boolean := CASE WHEN asked IS NOT NULL THEN asked::boolean ELSE EXISTS (
        SELECT FROM kombu_message AS message
        WHERE NOT message.visible AND message.consumer_id IS NULL
          AND message."timestamp" > localtimestamp - interval '7 days'
    ) END;
BEGIN
    CREATE TRIGGER kombu_message_stock AFTER UPDATE OF visible ON kombu_message FOR EACH ROW
        WHEN (NOT NEW.visible AND NEW.consumer_id IS NULL) EXECUTE FUNCTION kombu_refuse_stock();
    IF allowed THEN
        ALTER TABLE kombu_message DISABLE TRIGGER kombu_message_stock;
    END IF;
END
$$;
