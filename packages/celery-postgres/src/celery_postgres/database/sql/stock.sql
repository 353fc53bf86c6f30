-- The tables as stock Kombu and Celery make them, for projects that have no migration of their own for them.
CREATE SEQUENCE IF NOT EXISTS queue_id_sequence;
CREATE SEQUENCE IF NOT EXISTS message_id_sequence;
CREATE TABLE IF NOT EXISTS kombu_queue (
    id integer PRIMARY KEY,
    name varchar(200) UNIQUE
);
CREATE TABLE IF NOT EXISTS kombu_message (
    id integer PRIMARY KEY,
    visible boolean,
    "timestamp" timestamp,
    payload text NOT NULL,
    version smallint NOT NULL,
    queue_id integer CONSTRAINT "FK_kombu_message_queue" REFERENCES kombu_queue (id)
);

CREATE SEQUENCE IF NOT EXISTS task_id_sequence;
CREATE SEQUENCE IF NOT EXISTS taskset_id_sequence;
CREATE TABLE IF NOT EXISTS celery_taskmeta (
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
CREATE INDEX IF NOT EXISTS ix_celery_taskmeta_date_done ON celery_taskmeta (date_done);
CREATE TABLE IF NOT EXISTS celery_tasksetmeta (
    id integer PRIMARY KEY,
    taskset_id varchar(155) UNIQUE,
    result bytea,
    date_done timestamp
);
CREATE INDEX IF NOT EXISTS ix_celery_tasksetmeta_date_done ON celery_tasksetmeta (date_done);
