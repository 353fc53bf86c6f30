-- What a worker asks about the schema when the tables do not fit.

-- name: find_migrations
-- repeatable
-- Whether the schema has a record of its migrations.
SELECT to_regclass('celery_postgres_migration') IS NOT NULL

-- name: migrated_to
-- repeatable
-- The number up to which every migration is applied.
SELECT coalesce(min(migration.number) FILTER (WHERE migration.applied_at IS NULL) - 1, max(migration.number), 0)
FROM celery_postgres_migration AS migration

-- name: hold_key
-- For as long as the transaction lasts. Returns what the messages' table is in this database.
-- takes: key bigint
SELECT coalesce(to_regclass('kombu_message')::oid::bigint, 0), pg_advisory_xact_lock(%(key)s)

-- name: sees_held_key
-- The same table, or null if another session does not hold this key in this database.
-- takes: key bigint
SELECT CASE WHEN NOT pg_try_advisory_xact_lock(%(key)s)
    THEN coalesce(to_regclass('kombu_message')::oid::bigint, 0) END
