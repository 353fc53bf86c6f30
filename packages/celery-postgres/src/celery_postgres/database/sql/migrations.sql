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
