-- The broker's two tables as stock Kombu makes them, for projects that have no migration of their own for them.
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
