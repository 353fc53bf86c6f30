-- The tables as stock Kombu and Celery create them on PostgreSQL. Existing tables are adopted as they are, with their rows;
-- a table that is created here says so in its comment, because only such a table is dropped on the way down.

-- step: create the queues
-- unless: to_regclass('kombu_queue') IS NOT NULL
CREATE SEQUENCE IF NOT EXISTS queue_id_sequence;
CREATE TABLE kombu_queue (
    id integer PRIMARY KEY,
    name varchar(200) UNIQUE
);
COMMENT ON TABLE kombu_queue IS 'made by celery_postgres migration 0001';

-- step: create the messages
-- unless: to_regclass('kombu_message') IS NOT NULL
CREATE SEQUENCE IF NOT EXISTS message_id_sequence;
CREATE TABLE kombu_message (
    id integer PRIMARY KEY,
    visible boolean,
    "timestamp" timestamp,
    payload text NOT NULL,
    version smallint NOT NULL,
    queue_id integer CONSTRAINT "FK_kombu_message_queue" REFERENCES kombu_queue (id)
);
COMMENT ON TABLE kombu_message IS 'made by celery_postgres migration 0001';
CREATE INDEX ix_kombu_message_visible ON kombu_message (visible);
CREATE INDEX ix_kombu_message_timestamp ON kombu_message ("timestamp");
CREATE INDEX ix_kombu_message_timestamp_id ON kombu_message ("timestamp", id);

-- step: create the results
-- unless: to_regclass('celery_taskmeta') IS NOT NULL
CREATE SEQUENCE IF NOT EXISTS task_id_sequence;
CREATE TABLE celery_taskmeta (
    id integer PRIMARY KEY,
    task_id varchar(155) UNIQUE,
    status varchar(50),
    result bytea,
    date_done timestamp,
    traceback text,
    name varchar(155),
    args bytea,
    kwargs bytea,
    worker varchar(155),
    retries integer,
    queue varchar(155)
);
COMMENT ON TABLE celery_taskmeta IS 'made by celery_postgres migration 0001';
CREATE INDEX ix_celery_taskmeta_date_done ON celery_taskmeta (date_done);

-- step: create the results of groups
-- unless: to_regclass('celery_tasksetmeta') IS NOT NULL
CREATE SEQUENCE IF NOT EXISTS taskset_id_sequence;
CREATE TABLE celery_tasksetmeta (
    id integer PRIMARY KEY,
    taskset_id varchar(155) UNIQUE,
    result bytea,
    date_done timestamp
);
COMMENT ON TABLE celery_tasksetmeta IS 'made by celery_postgres migration 0001';
CREATE INDEX ix_celery_tasksetmeta_date_done ON celery_tasksetmeta (date_done);

-- A dump of single tables brings no sequences.
-- step: create the sequences
-- unless: to_regclass('queue_id_sequence') IS NOT NULL AND to_regclass('message_id_sequence') IS NOT NULL
--   AND to_regclass('task_id_sequence') IS NOT NULL AND to_regclass('taskset_id_sequence') IS NOT NULL
CREATE SEQUENCE IF NOT EXISTS queue_id_sequence;
CREATE SEQUENCE IF NOT EXISTS message_id_sequence;
CREATE SEQUENCE IF NOT EXISTS task_id_sequence;
CREATE SEQUENCE IF NOT EXISTS taskset_id_sequence;

-- Celery has had both since 5.6: tables of an older one lack them.
-- concurrently: ix_celery_taskmeta_date_done on celery_taskmeta
CREATE INDEX CONCURRENTLY ix_celery_taskmeta_date_done ON celery_taskmeta (date_done);

-- concurrently: ix_celery_tasksetmeta_date_done on celery_tasksetmeta
CREATE INDEX CONCURRENTLY ix_celery_tasksetmeta_date_done ON celery_tasksetmeta (date_done);
