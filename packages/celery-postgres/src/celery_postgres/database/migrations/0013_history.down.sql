-- Results stay; when each was published and begun, and the attempts, are forgotten. The indexes go with their columns.

-- step: drop the history
DROP TABLE IF EXISTS celery_attempt;
ALTER TABLE celery_taskmeta
    DROP COLUMN IF EXISTS tenant_id, DROP COLUMN IF EXISTS root_id, DROP COLUMN IF EXISTS parent_id,
    DROP COLUMN IF EXISTS published_at, DROP COLUMN IF EXISTS due_at, DROP COLUMN IF EXISTS started_at;
