-- The roles of Celery on PostgreSQL, with the least that each needs. They cannot log in: a login gets their rights with
-- GRANT celery_worker TO somebody.
--
--   celery_migrator       creates and owns the tables (DDL), and may do everything with them; nothing outside the database
--   celery_worker         runs tasks, or a beat: claims, acknowledges, stores results, adds dead letters
--   celery_producer       publishes: reads no message, changes no row, deletes nothing
--   celery_result_reader  for clients that wait for results, in addition to celery_producer: Celery's tables do not record
--                         whose a result is, so a role that may read one may read them all
--   celery_monitor        counts queues, consumers, ages and states; no payload, argument, result, task or tenant
--   celery_console        reads what the console shows, and no payload, argument, result or message of an error
--   celery_operator       acts by hand, in the console or with the tool; it reads everything
--
-- When a superuser runs this file, it also keeps payloads out of the server's log: in this database the server then logs a
-- failed statement without its literals, and an error without its DETAIL, for every login. To undo that for a login of
-- another application in the same database: ALTER ROLE somebody IN DATABASE this SET log_min_error_statement = error.
--
-- When the database's owner or a superuser runs it, it also revokes CONNECT and TEMPORARY from PUBLIC: every other login that
-- should connect needs GRANT CONNECT ON DATABASE this TO somebody.
--
-- Run it with psql or any other client, as often as you like: first as a role that may create roles, and after each migration
-- as the owner of the tables, because only the owner may use a new table. It does everything or nothing, waits for another
-- run of itself, and revokes from these roles what is not written here. It skips what does not exist (no migration yet; a
-- project that has the broker alone). The schema is the first one of the search_path.
DO $roles$
DECLARE
    schema_name text := current_schema();
    role_name text;
    views_schema text;
    one record;
    begun text[] := '{}';
    owners name[] := '{}';
BEGIN
    PERFORM set_config('lock_timeout', '60s', true);
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('celery_postgres.roles', 0));
    EXCEPTION WHEN lock_not_available THEN
        RAISE lock_not_available USING MESSAGE = 'for 60 s another run of this file has not ended: ' || (
            SELECT string_agg(format('process %s, role %s, %s', activity.pid, activity.usename,
                coalesce(nullif(activity.application_name, ''), 'without a name')), '; ')
            FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
            WHERE held.locktype = 'advisory' AND held.granted AND activity.datname = current_database()
              AND (held.classid::bigint << 32 | held.objid::bigint) = hashtextextended('celery_postgres.roles', 0)
        );
    END;

    FOREACH role_name IN ARRAY ARRAY[
        'celery_migrator', 'celery_worker', 'celery_producer', 'celery_result_reader', 'celery_monitor',
        'celery_console', 'celery_operator'
    ]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        END IF;
        IF NOT has_schema_privilege(role_name, schema_name, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema_name, role_name);
        END IF;
    END LOOP;
    IF NOT has_schema_privilege('celery_migrator', schema_name, 'CREATE') THEN
        EXECUTE format('GRANT CREATE ON SCHEMA %I TO celery_migrator', schema_name);
    END IF;

    -- Which role may do what with which table, sequence or function; and with which columns, where not with all of them.
    FOR one IN
        SELECT written.role, written.rights, there.*
        FROM (VALUES
            -- The broker. A worker claims across tenants. It may add and read dead letters, not change or delete them.
            ('celery_worker', 'kombu_queue', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_message', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_binding', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_consumer', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_subscription', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_dead_letter', 'SELECT, INSERT', NULL),
            ('celery_worker', 'kombu_stopped_task', 'SELECT', NULL),
            ('celery_worker', 'kombu_limit', 'SELECT', NULL),
            ('celery_worker', 'kombu_throttle', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'kombu_lost_consumer', 'SELECT, INSERT, DELETE', NULL),
            -- What people do through it, as the front's console. Nothing that is written here is changed but by its owner.
            ('celery_worker', 'console_action', 'SELECT', NULL),
            ('celery_worker', 'console_action', 'INSERT', 'source, actor, action, subject, conditions, planned'),
            ('celery_worker', 'console_action', 'UPDATE', 'ended_at, done, outcome'),
            ('celery_worker', 'console_ended_session', 'SELECT, INSERT, DELETE', NULL),
            ('celery_worker', 'celery_beat_entry', 'SELECT, INSERT, UPDATE', NULL),
            ('celery_worker', 'celery_beat', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'queue_id_sequence', 'USAGE', NULL),
            ('celery_worker', 'message_id_sequence', 'USAGE', NULL),
            -- Results, chords, and the clients that wait for them.
            ('celery_worker', 'celery_taskmeta', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_attempt', 'SELECT, INSERT, DELETE', NULL),
            ('celery_worker', 'celery_tasksetmeta', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_chord', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_chord_part', 'SELECT, INSERT, DELETE', NULL),
            ('celery_worker', 'celery_waiter', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_minute', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_minute_sum', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_hour', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'celery_depth', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'task_id_sequence', 'USAGE', NULL),
            ('celery_worker', 'taskset_id_sequence', 'USAGE', NULL),
            ('celery_worker', 'celery_listener_sequence', 'USAGE', NULL),
            ('celery_worker', 'kombu_catch_up', 'EXECUTE', 'text'),
            ('celery_worker', 'kombu_publish_unique', 'EXECUTE', 'bigint, text, smallint, text, uuid, timestamptz, '
                'timestamptz, bigint, bigint, uuid, smallint, timestamptz, text, text, double precision, double precision'),
            ('celery_worker', 'kombu_admit', 'EXECUTE', 'bigint[], text[]'),
            ('celery_worker', 'celery_size_chord', 'EXECUTE', 'text, integer'),
            ('celery_worker', 'celery_save_group', 'EXECUTE', 'text, bytea, timestamp'),
            ('celery_worker', 'celery_give_up_waiting', 'EXECUTE', 'bigint, text[]'),
            -- The application's own tables. A worker reads and writes tenants' rows as far as policies allow, and is ready
            -- only if the schema has the revision that it knows. No right on the materialized view: it holds the rows of
            -- all tenants.
            ('celery_worker', 'alembic_version', 'SELECT', NULL),
            ('celery_worker', 'customer_event', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'retention_policy', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'pii_policy', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_worker', 'maintenance_audit', 'SELECT, INSERT', NULL),
            ('celery_worker', 'maintenance_activity', 'SELECT', NULL),
            ('celery_worker', 'api_key', 'SELECT, INSERT, UPDATE', NULL),
            ('celery_worker', 'task_submission', 'SELECT, INSERT, DELETE', NULL),
            ('celery_monitor', 'alembic_version', 'SELECT', NULL),
            -- End of the application's own tables.

            -- Publishing. The sender sets the columns listed here, and never a message's id, its time of arrival, its claim
            -- or its visibility. It creates missing queues and bindings. It reads only the columns by which it finds and
            -- counts queues, and wakes sleeping consumers. It may change and lock no row.
            ('celery_producer', 'kombu_message', 'INSERT',
                'queue_id, payload, priority, task_id, tenant_id, available_at, expires_at, flow_key, flow_later, in_order'),
            ('celery_producer', 'kombu_message', 'SELECT', 'queue_id, visible, available_at, expires_at, consumer_id'),
            ('celery_producer', 'kombu_queue', 'SELECT', NULL),
            ('celery_producer', 'kombu_queue', 'INSERT', 'name, auto_delete, expires_ms, message_ttl_ms, fair'),
            ('celery_producer', 'kombu_binding', 'SELECT', NULL),
            ('celery_producer', 'kombu_binding', 'INSERT', 'exchange, type, routing_key, pattern, queue_id'),
            ('celery_producer', 'kombu_subscription', 'SELECT', NULL),
            ('celery_producer', 'kombu_consumer', 'SELECT', 'id'),
            ('celery_producer', 'queue_id_sequence', 'USAGE', NULL),
            ('celery_producer', 'message_id_sequence', 'USAGE', NULL),
            ('celery_producer', 'kombu_catch_up', 'EXECUTE', 'text'),
            ('celery_producer', 'kombu_publish_unique', 'EXECUTE', 'bigint, text, smallint, text, uuid, timestamptz, '
                'timestamptz, bigint, bigint, uuid, smallint, timestamptz, text, text, double precision, double precision'),
            ('celery_producer', 'kombu_admit', 'EXECUTE', 'bigint[], text[]'),
            -- Publishing a chord: how many parts it has, and the task ids of a header that contains groups.
            ('celery_producer', 'celery_size_chord', 'EXECUTE', 'text, integer'),
            ('celery_producer', 'celery_save_group', 'EXECUTE', 'text, bytea, timestamp'),

            -- Reading results and saved groups, and registering waiting clients. Of messages, whether a task's still waits:
            -- the option `waiting_state`.
            ('celery_result_reader', 'celery_taskmeta', 'SELECT', NULL),
            ('celery_result_reader', 'celery_attempt', 'SELECT', NULL),
            ('celery_result_reader', 'kombu_message', 'SELECT', 'id, task_id, visible'),
            ('celery_result_reader', 'celery_tasksetmeta', 'SELECT', NULL),
            ('celery_result_reader', 'celery_waiter', 'INSERT', 'task_id, listener, slot'),
            ('celery_result_reader', 'celery_give_up_waiting', 'EXECUTE', 'bigint, text[]'),
            ('celery_result_reader', 'celery_listener_sequence', 'USAGE', NULL),

            -- What /metrics, the dashboard and `queues`, `consumers` and `stopped` of the queue tool show.
            ('celery_monitor', 'kombu_queue', 'SELECT', NULL),
            ('celery_monitor', 'kombu_message', 'SELECT',
                'id, queue_id, visible, priority, enqueued_at, available_at, consumer_id, failures, flow_key, flow_later'),
            ('celery_monitor', 'kombu_limit', 'SELECT', 'queue_id, flow_key, weight, max_running, per_second, burst, refuse'),
            ('celery_monitor', 'kombu_throttle', 'SELECT', NULL),
            ('celery_monitor', 'kombu_consumer', 'SELECT', NULL),
            ('celery_monitor', 'kombu_subscription', 'SELECT', NULL),
            ('celery_monitor', 'kombu_lost_consumer', 'SELECT', NULL),
            ('celery_monitor', 'kombu_stopped_task', 'SELECT', NULL),
            ('celery_monitor', 'kombu_dead_letter', 'SELECT', 'queue, died_at'),
            ('celery_monitor', 'celery_taskmeta', 'SELECT', 'status, date_done'),
            ('celery_monitor', 'celery_beat_entry', 'SELECT', NULL),
            ('celery_monitor', 'celery_beat', 'SELECT', NULL),
            ('celery_monitor', 'celery_minute', 'SELECT', NULL),
            ('celery_monitor', 'celery_minute_sum', 'SELECT', NULL),
            ('celery_monitor', 'celery_chord', 'SELECT', 'id, size, done, added, due_at, created_at'),

            -- A console that looks: all but payloads, arguments, results and messages of errors. What has those it reads in
            -- the views that are made below.
            ('celery_console', 'kombu_queue', 'SELECT', NULL),
            ('celery_console', 'kombu_consumer', 'SELECT', NULL),
            ('celery_console', 'kombu_subscription', 'SELECT', NULL),
            ('celery_console', 'kombu_lost_consumer', 'SELECT', NULL),
            ('celery_console', 'kombu_stopped_task', 'SELECT', NULL),
            ('celery_console', 'kombu_limit', 'SELECT', NULL),
            ('celery_console', 'kombu_throttle', 'SELECT', NULL),
            ('celery_console', 'celery_beat_entry', 'SELECT', NULL),
            ('celery_console', 'celery_beat', 'SELECT', NULL),
            ('celery_console', 'celery_minute', 'SELECT', NULL),
            ('celery_console', 'celery_minute_sum', 'SELECT', NULL),
            ('celery_console', 'celery_hour', 'SELECT', NULL),
            ('celery_console', 'celery_depth', 'SELECT', NULL),
            ('celery_console', 'celery_chord', 'SELECT', 'id, size, done, added, due_at, created_at'),
            ('celery_console', 'celery_chord_part', 'SELECT', 'chord_id, position, task_id, status'),
            ('celery_console', 'console_action', 'SELECT', NULL),
            ('celery_console', 'console_ended_session', 'SELECT, INSERT, DELETE', NULL),  -- who signs out
            -- A console that acts, or a person with the tool. Requeueing copies payloads, so it reads them.
            ('celery_operator', 'kombu_queue', 'SELECT, UPDATE', NULL),
            ('celery_operator', 'kombu_message', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_operator', 'kombu_dead_letter', 'SELECT, DELETE', NULL),
            ('celery_operator', 'kombu_dead_letter', 'UPDATE', 'task_name'),  -- for the lock while one is requeued
            ('celery_operator', 'kombu_stopped_task', 'SELECT, INSERT, DELETE', NULL),
            ('celery_operator', 'kombu_limit', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_operator', 'kombu_throttle', 'SELECT, INSERT, UPDATE, DELETE', NULL),
            ('celery_operator', 'kombu_consumer', 'SELECT, UPDATE, DELETE', NULL),
            ('celery_operator', 'kombu_subscription', 'SELECT', NULL),
            ('celery_operator', 'kombu_lost_consumer', 'SELECT, DELETE', NULL),
            ('celery_operator', 'celery_beat_entry', 'SELECT, UPDATE', NULL),
            ('celery_operator', 'celery_beat', 'SELECT', NULL),
            ('celery_operator', 'celery_minute', 'SELECT', NULL),
            ('celery_operator', 'celery_minute_sum', 'SELECT', NULL),
            ('celery_operator', 'celery_hour', 'SELECT', NULL),
            ('celery_operator', 'celery_depth', 'SELECT', NULL),
            ('celery_operator', 'celery_taskmeta', 'SELECT', NULL),
            ('celery_operator', 'celery_attempt', 'SELECT', NULL),
            ('celery_operator', 'celery_chord', 'SELECT', NULL),
            ('celery_operator', 'celery_chord_part', 'SELECT', NULL),
            ('celery_operator', 'message_id_sequence', 'USAGE', NULL),
            ('celery_operator', 'console_action', 'SELECT', NULL),
            ('celery_operator', 'console_action', 'INSERT', 'source, actor, action, subject, conditions, planned'),
            ('celery_operator', 'console_ended_session', 'SELECT, INSERT, DELETE', NULL),
            ('celery_operator', 'console_action', 'UPDATE', 'ended_at, done, outcome')
        ) AS written (role, relation, rights, columns)
        CROSS JOIN LATERAL (
            SELECT c.oid::regclass::text AS found, pg_get_userbyid(c.relowner) AS owner,
                CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                coalesce(' (' || written.columns || ')', '') AS columns
            FROM pg_class AS c
            WHERE c.oid = to_regclass(format('%I.%I', schema_name, written.relation))
            UNION ALL
            SELECT p.oid::regprocedure::text, pg_get_userbyid(p.proowner), 'FUNCTION', ''
            FROM pg_proc AS p
            WHERE p.oid = CASE WHEN written.rights = 'EXECUTE'
                THEN to_regprocedure(format('%I.%I(%s)', schema_name, written.relation, written.columns)) END
        ) AS there
        ORDER BY written.relation, written.role
    LOOP
        IF NOT pg_has_role(one.owner, 'USAGE') THEN
            RAISE insufficient_privilege
                USING MESSAGE = format('%s belongs to %s: run this as that role', one.found, one.owner);
        END IF;
        IF one.found <> ALL (begun) THEN
            begun := begun || one.found;
            owners := owners || one.owner;
            EXECUTE format(
                'REVOKE ALL ON %s %s FROM celery_worker, celery_producer, celery_result_reader, celery_monitor,'
                ' celery_console, celery_operator',
                one.kind, one.found
            );
        END IF;
        EXECUTE format(
            'GRANT %s%s ON %s %s TO %I', one.rights, one.columns, one.kind, one.found, one.role
        );
    END LOOP;

    -- The driver writes parameters into the statement, so the server's log would contain them. Set for the database, because
    -- a login does not inherit settings from its roles, and a login that is created tomorrow needs them too.
    FOR one IN
        SELECT * FROM (VALUES
            ('log_min_error_statement', 'panic'),
            ('log_error_verbosity', 'terse'),
            ('log_parameter_max_length', '0')  -- for drivers that send parameters separately
        ) AS quiet (name, value)
    LOOP
        BEGIN
            EXECUTE format('ALTER DATABASE %I SET %I = %L', current_database(), one.name, one.value);
        EXCEPTION WHEN insufficient_privilege THEN
            IF current_setting(one.name) <> one.value THEN
                RAISE NOTICE '% is not % in this database: its log may have payloads, until a superuser runs this',
                    one.name, one.value;
            END IF;
        END;
    END LOOP;

    -- For celery_console, which may read no payload: a schema with views by the names of the tables that have some. A login
    -- reads them with ALTER ROLE somebody SET search_path = public_console, public. Of a payload they have its size and the
    -- task's name, of a traceback its calls and the type of the error; bytes are null.
    views_schema := schema_name || '_console';
    BEGIN
        IF to_regnamespace(quote_ident(views_schema)) IS NULL THEN
            EXECUTE format('CREATE SCHEMA %I', views_schema);
        END IF;
        IF pg_has_role((SELECT n.nspowner FROM pg_namespace AS n WHERE n.nspname = views_schema), 'USAGE') THEN
            FOREACH role_name IN ARRAY owners || 'celery_migrator'::name LOOP
                EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', views_schema, role_name);
            END LOOP;
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO celery_console', views_schema);
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'celery_console sees no tasks, until the owner of % or a superuser runs this', current_database();
    END;
    IF has_schema_privilege(to_regnamespace(quote_ident(views_schema))::oid, 'CREATE') THEN
        FOR one IN
            SELECT c.relname AS name, c.oid::regclass::text AS found, pg_get_userbyid(c.relowner) AS owner,
                string_agg(CASE
                    WHEN a.attname = 'payload' THEN
                        $sql$'{"withheld": ' || octet_length(payload) || ', "task": "' ||
                        CASE WHEN octet_length(payload) <= 1048576
                            THEN left(split_part(split_part(payload, '"task": "', 2), '"', 1), 255) ELSE '' END || '"}' AS payload$sql$
                    -- What could be of a message is left out: it may quote a value. See `error_of_result` in the package.
                    WHEN a.attname = 'traceback' THEN
                        $sql$nullif(concat(substring(left(traceback, 20000) FROM '^(?:  \+ Exception Group )?Traceback \(most recent call last\):\n(?:(?:  \| )?  File "[^"\n]+", line [0-9]+, in [^\n]+\n(?:(?:  \| )?    [^\n]*\n)*(?:(?:  \| )?  \[Previous line repeated [0-9]+ more times?\]\n)?)*'), $sql$ ||
                        CASE c.relname WHEN 'celery_taskmeta' THEN $sql$CASE WHEN status = 'FAILURE' OR (status <> 'SUCCESS' AND traceback IS NOT NULL) THEN regexp_replace(coalesce(
                            substring(encode(substring(result FROM 1 FOR 600), 'escape') FROM '^(?:\{"|\\200[\x02-\x05](?:\\225.{8,40})?\}(?:\\224|q.)\(?(?:\\214.|X.\\000\\000\\000))exc_type(?:": "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))UnpickleableExceptionWrapper(?:", "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))exc_message(?:": \["|(?:\\224|q.)(?:[])](?:\\224|q.))?\((?:\\214.|X.\\000\\000\\000))[^"\\]+(?:", "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))([A-Za-z_][A-Za-z0-9_.<>]*)(?:"|\\224|q)'),
                            substring(encode(substring(result FROM 1 FOR 600), 'escape') FROM '^(?:\{"|\\200[\x02-\x05](?:\\225.{8,40})?\}(?:\\224|q.)\(?(?:\\214.|X.\\000\\000\\000))exc_type(?:": "|(?:\\224|q.)(?:\\214.|X.\\000\\000\\000))([A-Za-z_][A-Za-z0-9_.<>]*)(?:"|\\224|q)'),
                            substring(left(traceback, 20000) FROM '^(?:(?:  \+ Exception Group )?Traceback \(most recent call last\):\n(?:(?:  \| )?  File "[^"\n]+", line [0-9]+, in [^\n]+\n(?:(?:  \| )?    [^\n]*\n)*(?:(?:  \| )?  \[Previous line repeated [0-9]+ more times?\]\n)?)*)?(?:  \| )?([A-Za-z_][A-Za-z0-9_.<>]*)(?::|\n|$)')
                        ), '^.*\.', '') END$sql$ ELSE 'NULL' END ||
                        $sql$), '') AS traceback$sql$
                    WHEN a.attname IN ('args', 'kwargs', 'result') OR a.atttypid = 'bytea'::regtype THEN
                        format('NULL::%s AS %I', format_type(a.atttypid, a.atttypmod), a.attname)
                    ELSE quote_ident(a.attname)
                END, ', ' ORDER BY a.attnum) AS columns
            FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = to_regnamespace(quote_ident(schema_name)) AND c.relkind IN ('r', 'p')
              AND c.relname IN ('kombu_message', 'kombu_dead_letter', 'celery_taskmeta', 'celery_attempt')
            GROUP BY c.oid, c.relname, c.relowner
        LOOP
            EXECUTE format('DROP VIEW IF EXISTS %I.%I', views_schema, one.name);
            EXECUTE format('CREATE VIEW %I.%I AS SELECT %s FROM %s', views_schema, one.name, one.columns, one.found);
            EXECUTE format('ALTER VIEW %I.%I OWNER TO %I', views_schema, one.name, one.owner);
            EXECUTE format('GRANT SELECT ON %I.%I TO celery_console', views_schema, one.name);
        END LOOP;
    END IF;

    -- A login that may connect can listen, notify, hold advisory locks, and fill the disk with temporary tables. So only
    -- these roles and the owner of the tables may connect.
    IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
        EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        EXECUTE format(
            'GRANT CONNECT ON DATABASE %I TO celery_migrator, celery_worker, celery_producer, celery_result_reader,'
            ' celery_monitor, celery_console, celery_operator', current_database()
        );
        EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO celery_migrator, celery_worker', current_database());
        FOREACH role_name IN ARRAY owners LOOP
            EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role_name);
        END LOOP;
    ELSIF has_database_privilege('pg_monitor', current_database(), 'CONNECT') THEN  -- through PUBLIC, unless granted
        RAISE NOTICE 'every role of the server may connect to %, until its owner or a superuser runs this',
            current_database();
    END IF;

    -- A worker, too, reads what metrics show with the monitor's rights.
    IF NOT pg_has_role('celery_worker', 'celery_monitor', 'MEMBER') THEN
        BEGIN
            GRANT celery_monitor TO celery_worker;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'workers read their metrics with all of their rights, until a role that may grant celery_monitor runs this';
        END;
    END IF;
END
$roles$;
