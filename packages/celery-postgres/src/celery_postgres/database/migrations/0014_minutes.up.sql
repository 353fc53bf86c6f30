-- What consumers count: how many tasks have started and ended, how long they waited, how long they ran. New tables alone, so
-- older workers go on; they count nothing.

-- A row for each minute, consumer, queue and task name. `waited` and `ran` have the number of tasks in each of 16 classes of
-- duration. A consumer writes its own rows alone; later they are added up in rows of the consumer 0.
-- step: create celery_minute
CREATE TABLE IF NOT EXISTS celery_minute (
    minute timestamptz NOT NULL,
    consumer_id bigint NOT NULL,
    queue text NOT NULL CHECK (char_length(queue) <= 200),
    name text NOT NULL CHECK (char_length(name) <= 200),
    started integer NOT NULL,
    done integer NOT NULL,
    failed integer NOT NULL,
    retried integer NOT NULL,
    waited integer[] NOT NULL,
    ran integer[] NOT NULL,
    PRIMARY KEY (minute, consumer_id, queue, name)
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS ix_celery_minute_own ON celery_minute (minute) WHERE consumer_id <> 0;

-- The same of all consumers together, for each hour.
-- step: create celery_hour
CREATE TABLE IF NOT EXISTS celery_hour (
    hour timestamptz NOT NULL,
    queue text NOT NULL CHECK (char_length(queue) <= 200),
    name text NOT NULL CHECK (char_length(name) <= 200),
    started bigint NOT NULL,
    done bigint NOT NULL,
    failed bigint NOT NULL,
    retried bigint NOT NULL,
    waited bigint[] NOT NULL,
    ran bigint[] NOT NULL,
    PRIMARY KEY (hour, queue, name)
);

-- How many messages of a queue waited as a minute began (counting stops at 10,001), and for how long the oldest had. One of the
-- queue's consumers looks.
-- step: create celery_depth
CREATE TABLE IF NOT EXISTS celery_depth (
    minute timestamptz NOT NULL,
    queue text NOT NULL CHECK (char_length(queue) <= 200),
    waiting integer NOT NULL,
    oldest_s double precision,
    PRIMARY KEY (minute, queue)
);

-- step: grant these tables to the roles that consume
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT DISTINCT acl.grantee::regrole AS grantee
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = 'kombu_message'::regclass AND acl.privilege_type = 'DELETE' AND acl.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON celery_minute, celery_hour, celery_depth TO %s', one.grantee);
    END LOOP;
END
$$;
