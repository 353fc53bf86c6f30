-- What the overview of the console reads: the minutes of all queues together, and the ended tasks that did not succeed. Older
-- workers go on: a trigger adds up what they count, and a success has no entry in the indexes.

-- The minutes of all consumers and queues, by name and (`whole`) of all names together. A minute is added up once the rows of
-- its consumers have become one.
-- step: create celery_minute_sum
CREATE TABLE IF NOT EXISTS celery_minute_sum (
    whole boolean NOT NULL,
    minute timestamptz NOT NULL,
    name text NOT NULL,
    started integer NOT NULL,
    done integer NOT NULL,
    failed integer NOT NULL,
    retried integer NOT NULL,
    waited integer[] NOT NULL,
    ran integer[] NOT NULL,
    PRIMARY KEY (whole, minute, name)
) WITH (fillfactor = 50);

-- What the rows of the consumer 0 have more than before is added, in one order, so that two never wait for each other. What a
-- statement deletes stays in the sum.
-- step: add up the minutes of all queues
CREATE OR REPLACE FUNCTION kombu_sum_minutes() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF EXISTS (SELECT FROM written WHERE written.consumer_id = 0) THEN
        EXECUTE replace($statement$
            INSERT INTO celery_minute_sum AS kept (whole, minute, name, started, done, failed, retried, waited, ran)
            SELECT
                grouping(one.name) = 1, one.minute, coalesce(one.name, ''), sum(one.sign * one.started), sum(one.sign * one.done),
                sum(one.sign * one.failed),
                sum(one.sign * one.retried),
                ARRAY[
                    sum(one.sign * one.waited[1]), sum(one.sign * one.waited[2]), sum(one.sign * one.waited[3]), sum(one.sign * one.waited[4]),
                    sum(one.sign * one.waited[5]), sum(one.sign * one.waited[6]), sum(one.sign * one.waited[7]), sum(one.sign * one.waited[8]),
                    sum(one.sign * one.waited[9]), sum(one.sign * one.waited[10]), sum(one.sign * one.waited[11]), sum(one.sign * one.waited[12]),
                    sum(one.sign * one.waited[13]), sum(one.sign * one.waited[14]), sum(one.sign * one.waited[15]), sum(one.sign * one.waited[16])
                ],
                ARRAY[
                    sum(one.sign * one.ran[1]), sum(one.sign * one.ran[2]), sum(one.sign * one.ran[3]), sum(one.sign * one.ran[4]),
                    sum(one.sign * one.ran[5]), sum(one.sign * one.ran[6]), sum(one.sign * one.ran[7]), sum(one.sign * one.ran[8]),
                    sum(one.sign * one.ran[9]), sum(one.sign * one.ran[10]), sum(one.sign * one.ran[11]), sum(one.sign * one.ran[12]),
                    sum(one.sign * one.ran[13]), sum(one.sign * one.ran[14]), sum(one.sign * one.ran[15]), sum(one.sign * one.ran[16])
                ]
            FROM (CHANGED) AS one
            WHERE one.consumer_id = 0
            GROUP BY GROUPING SETS ((one.minute, one.name), (one.minute))
            ORDER BY 1, 2, 3
            ON CONFLICT (whole, minute, name) DO UPDATE
            SET started = kept.started + excluded.started, done = kept.done + excluded.done,
                failed = kept.failed + excluded.failed, retried = kept.retried + excluded.retried,
                waited = ARRAY(
                    SELECT coalesce(part.old, 0) + coalesce(part.more, 0)
                    FROM unnest(kept.waited, excluded.waited) WITH ORDINALITY AS part (old, more, n) ORDER BY part.n
                ),
                ran = ARRAY(
                    SELECT coalesce(part.old, 0) + coalesce(part.more, 0)
                    FROM unnest(kept.ran, excluded.ran) WITH ORDINALITY AS part (old, more, n) ORDER BY part.n
                )
        $statement$, 'CHANGED', CASE TG_OP
            WHEN 'INSERT' THEN 'SELECT 1 AS sign, * FROM written'
            ELSE 'SELECT 1 AS sign, * FROM written UNION ALL SELECT -1, * FROM replaced'
        END);
    END IF;
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION kombu_sum_minutes() FROM PUBLIC;
DROP TRIGGER IF EXISTS kombu_sum_new_minutes ON celery_minute;
DROP TRIGGER IF EXISTS kombu_sum_more_minutes ON celery_minute;
CREATE TRIGGER kombu_sum_new_minutes AFTER INSERT ON celery_minute REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION kombu_sum_minutes();
CREATE TRIGGER kombu_sum_more_minutes AFTER UPDATE ON celery_minute REFERENCING OLD TABLE AS replaced NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION kombu_sum_minutes();
DELETE FROM celery_minute_sum;
INSERT INTO celery_minute_sum (whole, minute, name, started, done, failed, retried, waited, ran)
SELECT grouping(one.name) = 1, one.minute, coalesce(one.name, ''), sum(one.started), sum(one.done), sum(one.failed), sum(one.retried),
    ARRAY[
        sum(one.waited[1]), sum(one.waited[2]), sum(one.waited[3]), sum(one.waited[4]),
        sum(one.waited[5]), sum(one.waited[6]), sum(one.waited[7]), sum(one.waited[8]),
        sum(one.waited[9]), sum(one.waited[10]), sum(one.waited[11]), sum(one.waited[12]),
        sum(one.waited[13]), sum(one.waited[14]), sum(one.waited[15]), sum(one.waited[16])
    ],
    ARRAY[
        sum(one.ran[1]), sum(one.ran[2]), sum(one.ran[3]), sum(one.ran[4]),
        sum(one.ran[5]), sum(one.ran[6]), sum(one.ran[7]), sum(one.ran[8]),
        sum(one.ran[9]), sum(one.ran[10]), sum(one.ran[11]), sum(one.ran[12]),
        sum(one.ran[13]), sum(one.ran[14]), sum(one.ran[15]), sum(one.ran[16])
    ]
FROM celery_minute AS one
WHERE one.consumer_id = 0 AND one.minute > now() - interval '3 hours'
GROUP BY GROUPING SETS ((one.minute, one.name), (one.minute));

-- The minutes before those, whose rows nothing changes any more: counting would wait for as long as this takes.
-- step: add up older minutes
INSERT INTO celery_minute_sum (whole, minute, name, started, done, failed, retried, waited, ran)
SELECT grouping(one.name) = 1, one.minute, coalesce(one.name, ''), sum(one.started), sum(one.done), sum(one.failed), sum(one.retried),
    ARRAY[
        sum(one.waited[1]), sum(one.waited[2]), sum(one.waited[3]), sum(one.waited[4]),
        sum(one.waited[5]), sum(one.waited[6]), sum(one.waited[7]), sum(one.waited[8]),
        sum(one.waited[9]), sum(one.waited[10]), sum(one.waited[11]), sum(one.waited[12]),
        sum(one.waited[13]), sum(one.waited[14]), sum(one.waited[15]), sum(one.waited[16])
    ],
    ARRAY[
        sum(one.ran[1]), sum(one.ran[2]), sum(one.ran[3]), sum(one.ran[4]),
        sum(one.ran[5]), sum(one.ran[6]), sum(one.ran[7]), sum(one.ran[8]),
        sum(one.ran[9]), sum(one.ran[10]), sum(one.ran[11]), sum(one.ran[12]),
        sum(one.ran[13]), sum(one.ran[14]), sum(one.ran[15]), sum(one.ran[16])
    ]
FROM celery_minute AS one
WHERE one.consumer_id = 0 AND one.minute < coalesce(
    (SELECT min(known.minute) FROM celery_minute_sum AS known), now() - interval '3 hours'
)
GROUP BY GROUPING SETS ((one.minute, one.name), (one.minute))
ON CONFLICT DO NOTHING;

-- step: grant celery_minute_sum to the roles that count and that look
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT acl.grantee::regrole AS grantee, bool_or(acl.privilege_type = 'INSERT') AS counts
        FROM (SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = 'celery_minute'::regclass) AS acl
        WHERE acl.grantee <> 0 AND acl.privilege_type IN ('SELECT', 'INSERT')
          AND acl.grantee <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'celery_minute'::regclass)
        GROUP BY acl.grantee
    LOOP
        EXECUTE format(
            'GRANT %s ON celery_minute_sum TO %s',
            CASE WHEN one.counts THEN 'SELECT, INSERT, UPDATE, DELETE' ELSE 'SELECT' END, one.grantee
        );
    END LOOP;
END
$$;

-- Tasks that failed, are retried or were revoked, of all and of a tenant: among ten million successes a list of them read for a
-- second and more.
-- concurrently: ix_celery_taskmeta_failed on celery_taskmeta
CREATE INDEX CONCURRENTLY ix_celery_taskmeta_failed ON celery_taskmeta (status, date_done, id)
    WHERE status IN ('FAILURE', 'RETRY', 'REVOKED', 'REJECTED', 'IGNORED');

-- concurrently: ix_celery_taskmeta_tenant_failed on celery_taskmeta
CREATE INDEX CONCURRENTLY ix_celery_taskmeta_tenant_failed ON celery_taskmeta (tenant_id, status, date_done, id)
    WHERE tenant_id IS NOT NULL AND status IN ('FAILURE', 'RETRY', 'REVOKED', 'REJECTED', 'IGNORED');
