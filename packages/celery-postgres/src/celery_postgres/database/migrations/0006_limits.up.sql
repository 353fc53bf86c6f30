-- What a row may hold, so that no row stops a statement that works on many rows: no number that overflows, no time that
-- cannot be subtracted, no pattern that is none.
--
-- Rows that break a rule are mended first, so that no claim meets one under its constraint; then the constraints are added
-- without a scan (NOT VALID); then rows that arrived in between are mended; then the constraints are validated, which reads
-- the table and stops no reader and no writer.
--
-- A violated CHECK quotes the row in the server's log, and a message's row has a payload. So these CHECKs are never false:
-- they call a function that raises the error without the row. A good row costs no call, and 1 us.

-- step: create the function kombu_refuse
CREATE OR REPLACE FUNCTION kombu_refuse(reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = reason;
END
$$;
GRANT EXECUTE ON FUNCTION kombu_refuse(text) TO PUBLIC;  -- PostgreSQL asks for it at each INSERT, of good rows too

-- These three functions exist during this migration only.
-- step: create the rules
CREATE OR REPLACE FUNCTION kombu_limits()
RETURNS TABLE (place integer, relation text, what text, reason text, flaw text, mend text)
LANGUAGE plpgsql STABLE AS $rules$
DECLARE
    -- Control characters, line and paragraph separators, and what turns the direction of writing.
    unprintable text := '[\u0001-\u001F\u007F-\u009F\u061C\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF]';
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        unprintable := '[\u0001-\u001F\u007F]';  -- the others may not have a number there
    END IF;
    RETURN QUERY
        SELECT rule.place, rule.relation, rule.what, rule.reason, format(rule.flaw, unprintable),
            format(rule.mend, unprintable)
        FROM (VALUES
            (1, 'kombu_queue', 'name', 'a name is 1 to 200 printable characters',
                $sql$ name IS NULL OR name = '' OR name ~ %1$L $sql$,
                -- It stays a name of its own, and what waits under it stays as well.
                $sql$ name = left(regexp_replace(coalesce(name, ''), %1$L, '?', 'g'), 170) || '#' || id $sql$),
            (2, 'kombu_queue', 'times', 'x-expires and x-message-ttl are 0 to 100000000000000 milliseconds',
                $sql$ expires_ms NOT BETWEEN 0 AND 100000000000000
                    OR message_ttl_ms NOT BETWEEN 0 AND 100000000000000 $sql$,
                $sql$ expires_ms = CASE WHEN expires_ms IS NOT NULL
                        THEN least(greatest(expires_ms, 0), 100000000000000) END,
                    message_ttl_ms = CASE WHEN message_ttl_ms IS NOT NULL
                        THEN least(greatest(message_ttl_ms, 0), 100000000000000) END $sql$),
            -- What `topic.pattern` makes: words between dots, each a literal or `[^.]*`, and at most four `#`. Any other
            -- expression could be one that PostgreSQL refuses, or works on for minutes (180 times `[^.]*` in a row are
            -- 4 s), in the middle of somebody else's publish. NULL matches nothing until the binding is declared again.
            (3, 'kombu_binding', 'pattern', 'a pattern is what celery_postgres makes of a routing key',
                $sql$ pattern <> '^.*$' AND (char_length(pattern) > 2600 OR pattern ~ '[[:cntrl:]]'
                    OR char_length(replace(pattern, ')*', ')')) < char_length(pattern) - 4
                    OR replace(replace(pattern, '([^.]*\.)*', chr(1)), '(\.[^.]*)*', chr(2)) !~ replace(
                        '^\^\x01?W(\\\.\x01?W)*\x02?\$$', 'W', '(\[\^\.\]\*|([^!-/:-@\[-`{-~ \x01\x02]|\\[!-\-/:-@\[-`{-~ ])*)')
                    ) $sql$,
                $sql$ pattern = NULL $sql$),
            (4, 'kombu_binding', 'names', 'names of exchanges and routing keys are at most 255 printable characters',
                $sql$ char_length(exchange) NOT BETWEEN 1 AND 255 OR char_length(routing_key) > 255
                    OR char_length(type) > 255 OR concat(exchange, type, routing_key) ~ %1$L $sql$,
                NULL),  -- old rows stay: they are read, and never written again
            (5, 'kombu_consumer', 'hostname', 'a hostname is at most 255 printable characters',
                $sql$ char_length(hostname) > 255 OR hostname ~ %1$L $sql$,
                $sql$ hostname = left(regexp_replace(hostname, %1$L, '?', 'g'), 200) $sql$),
            (6, 'kombu_message', 'columns',
                'priority is 0 to 9, times are of the years 1970 to 9999, a task id has at most 1000 bytes, and what '
                'every message has is not null',
                $sql$ queue_id IS NULL OR visible IS NULL OR priority NOT BETWEEN 0 AND 9
                    OR available_at < '1970-01-01 00:00+00' OR available_at >= '10000-01-01 00:00+00'
                    OR expires_at < '1970-01-01 00:00+00' OR expires_at >= '10000-01-01 00:00+00'
                    OR enqueued_at < '1970-01-01 00:00+00' OR enqueued_at >= '10000-01-01 00:00+00'
                    OR octet_length(task_id) > 1000 $sql$,
                $sql$ queue_id = coalesce(queue_id, 0), visible = coalesce(visible, false),
                    priority = least(greatest(priority, 0), 9),
                    available_at = CASE WHEN available_at IS NOT NULL
                        THEN least(greatest(available_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    expires_at = CASE WHEN expires_at IS NOT NULL
                        THEN least(greatest(expires_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    enqueued_at = CASE WHEN enqueued_at IS NOT NULL
                        THEN least(greatest(enqueued_at, '1970-01-01 00:00+00'), '9999-12-31 00:00+00') END,
                    task_id = CASE WHEN octet_length(task_id) <= 1000 THEN task_id END $sql$),
            (7, 'celery_chord', 'numbers', 'size is 0 to 1000000000, an id has at most 1000 bytes',
                $sql$ size NOT BETWEEN 0 AND 1000000000 OR octet_length(id) > 1000 $sql$,
                $sql$ size = CASE WHEN size IS NOT NULL THEN least(greatest(size, 0), 1000000000) END $sql$),
            (8, 'celery_tasksetmeta', 'date_done', 'date_done is of the years 1970 to 9999',
                $sql$ date_done < '1970-01-01' OR date_done >= '10000-01-01' $sql$,
                $sql$ date_done = least(greatest(date_done, '1970-01-01'), '9999-12-31') $sql$)
        ) AS rule (place, relation, what, reason, flaw, mend)
        ORDER BY rule.place;
END
$rules$;
CREATE OR REPLACE FUNCTION kombu_mend(mended text) RETURNS void LANGUAGE plpgsql AS $mend$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT * FROM kombu_limits() AS rule
        WHERE rule.relation = mended AND rule.mend IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_constraint AS made
            WHERE made.conrelid = to_regclass(rule.relation) AND made.conname = rule.relation || '_' || rule.what
              AND made.convalidated
        )
    LOOP
        EXECUTE format('UPDATE %I SET %s WHERE %s', one.relation, one.mend, one.flaw);
    END LOOP;
END
$mend$;
CREATE OR REPLACE FUNCTION kombu_limit(limited text) RETURNS void LANGUAGE plpgsql AS $limit$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT * FROM kombu_limits() AS rule
        WHERE rule.relation = limited AND NOT EXISTS (
            SELECT FROM pg_constraint AS made
            WHERE made.conrelid = to_regclass(rule.relation) AND made.conname = rule.relation || '_' || rule.what
        )
    LOOP
        EXECUTE format(
            'ALTER TABLE %I ADD CONSTRAINT %I CHECK (CASE WHEN %s THEN kombu_refuse(%L) ELSE true END) NOT VALID',
            one.relation, one.relation || '_' || one.what, one.flaw, one.relation || ': ' || one.reason
        );
    END LOOP;
END
$limit$;
REVOKE ALL ON FUNCTION kombu_limits(), kombu_mend(text), kombu_limit(text) FROM PUBLIC;

-- step: mend kombu_queue
SELECT kombu_mend('kombu_queue');

-- step: limit kombu_queue
SELECT kombu_limit('kombu_queue');

-- step: mend again kombu_queue
SELECT kombu_mend('kombu_queue');

-- step: mend kombu_binding
SELECT kombu_mend('kombu_binding');

-- step: limit kombu_binding
SELECT kombu_limit('kombu_binding');

-- step: mend again kombu_binding
SELECT kombu_mend('kombu_binding');

-- step: mend kombu_consumer
SELECT kombu_mend('kombu_consumer');

-- step: limit kombu_consumer
SELECT kombu_limit('kombu_consumer');

-- step: mend again kombu_consumer
SELECT kombu_mend('kombu_consumer');

-- step: mend kombu_message
SELECT kombu_mend('kombu_message');

-- step: limit kombu_message
SELECT kombu_limit('kombu_message');

-- step: mend again kombu_message
SELECT kombu_mend('kombu_message');

-- step: mend celery_chord
SELECT kombu_mend('celery_chord');

-- step: limit celery_chord
SELECT kombu_limit('celery_chord');

-- step: mend again celery_chord
SELECT kombu_mend('celery_chord');

-- step: mend celery_tasksetmeta
SELECT kombu_mend('celery_tasksetmeta');

-- step: limit celery_tasksetmeta
SELECT kombu_limit('celery_tasksetmeta');

-- step: mend again celery_tasksetmeta
SELECT kombu_mend('celery_tasksetmeta');

-- Not kombu_binding_names and celery_chord_numbers: old rows that break these cannot be mended, and stay.
-- step: validate kombu_queue_name
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_queue')
--   AND conname = 'kombu_queue_name' AND convalidated)
ALTER TABLE kombu_queue VALIDATE CONSTRAINT kombu_queue_name;

-- step: validate kombu_queue_times
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_queue')
--   AND conname = 'kombu_queue_times' AND convalidated)
ALTER TABLE kombu_queue VALIDATE CONSTRAINT kombu_queue_times;

-- step: validate kombu_binding_pattern
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_binding')
--   AND conname = 'kombu_binding_pattern' AND convalidated)
ALTER TABLE kombu_binding VALIDATE CONSTRAINT kombu_binding_pattern;

-- step: validate kombu_consumer_hostname
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_consumer')
--   AND conname = 'kombu_consumer_hostname' AND convalidated)
ALTER TABLE kombu_consumer VALIDATE CONSTRAINT kombu_consumer_hostname;

-- step: validate kombu_message_columns
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_message')
--   AND conname = 'kombu_message_columns' AND convalidated)
ALTER TABLE kombu_message VALIDATE CONSTRAINT kombu_message_columns;

-- step: validate celery_tasksetmeta_date_done
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('celery_tasksetmeta')
--   AND conname = 'celery_tasksetmeta_date_done' AND convalidated)
ALTER TABLE celery_tasksetmeta VALIDATE CONSTRAINT celery_tasksetmeta_date_done;

-- step: drop the rules
DROP FUNCTION kombu_limits(), kombu_mend(text), kombu_limit(text);
