-- What people did to the broker, and which workers were lost. Older releases neither read nor write any of it.

-- An action is written before it begins, and its end when it has ended: without an end it was cut off. `login` is the
-- session's, and only the owner can change what is written here, but for how far an action came.
-- step: create console_action
CREATE TABLE IF NOT EXISTS console_action (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    source text NOT NULL,
    actor text NOT NULL,
    login name NOT NULL DEFAULT session_user,
    action text NOT NULL,
    subject text NOT NULL DEFAULT '',
    conditions text NOT NULL DEFAULT '',
    planned bigint,
    done bigint NOT NULL DEFAULT 0,
    outcome text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS ix_console_action_subject ON console_action (action, subject, id);

-- Consumers that others found dead. They are kept for a week.
-- step: create kombu_lost_consumer
CREATE TABLE IF NOT EXISTS kombu_lost_consumer (
    id bigint PRIMARY KEY,
    lost_at timestamptz NOT NULL DEFAULT now(),
    hostname text,
    pid integer,
    started_at timestamptz,
    claimed bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_kombu_lost_consumer_lost_at ON kombu_lost_consumer (lost_at);

-- The name as it stands in the payload; null if that is long, and in older rows. Reading 10,000 names out of payloads takes
-- longer than a page may. A trigger writes it, whichever release makes a dead letter.
-- step: add task_name to kombu_dead_letter
-- unless: 1 = (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('kombu_dead_letter') AND NOT attisdropped
--   AND attname = 'task_name')
ALTER TABLE kombu_dead_letter ADD COLUMN IF NOT EXISTS task_name text;

-- step: fill in task_name of kombu_dead_letter
CREATE OR REPLACE FUNCTION kombu_name_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found text := split_part(NEW.payload, '"task": "', 2);
BEGIN
    IF NEW.task_name IS NULL AND octet_length(NEW.payload) <= 20000 THEN
        NEW.task_name := nullif(left(CASE
            WHEN right(split_part(found, '"', 1), 1) = '\' THEN substring(found FROM '^((?:[^"\\]|\\.)*)"')
            ELSE split_part(found, '"', 1)
        END, 255), '');
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION kombu_name_dead_letter() FROM PUBLIC;
DROP TRIGGER IF EXISTS kombu_name_dead_letter ON kombu_dead_letter;
CREATE TRIGGER kombu_name_dead_letter BEFORE INSERT ON kombu_dead_letter
    FOR EACH ROW EXECUTE FUNCTION kombu_name_dead_letter();

-- Logins that remove consumers note those that were lost, and may act; those that look at consumers look here too.
-- step: grant console_action and kombu_lost_consumer to the roles of workers and monitors
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT acl.grantee::regrole AS grantee, bool_or(acl.privilege_type = 'DELETE') AS removes
        FROM (SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = 'kombu_consumer'::regclass) AS acl
        WHERE acl.grantee <> 0 AND acl.privilege_type IN ('SELECT', 'DELETE')
          AND acl.grantee <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'kombu_consumer'::regclass)
        GROUP BY acl.grantee
    LOOP
        EXECUTE format('GRANT SELECT ON kombu_lost_consumer TO %s', one.grantee);
        IF one.removes THEN
            EXECUTE format('GRANT INSERT, DELETE ON kombu_lost_consumer TO %s', one.grantee);
            EXECUTE format(
                'GRANT SELECT, INSERT (source, actor, action, subject, conditions, planned),'
                ' UPDATE (ended_at, done, outcome) ON console_action TO %s', one.grantee
            );
        END IF;
    END LOOP;
END
$$;
