-- What the maintenance tasks work on, under row-level security: a table of customers' events, the tenants' policies
-- for it, and an audit of what was done. Names of tables, columns and actions in a policy are checked here against
-- the same list that the code has (app.db.targets; a test compares them): data never chooses an identifier.
--
-- Every tenant policy is the same expression. The scalar sub-select is evaluated once per statement and not once per
-- row (51 ms against 345 ms on a million rows); NULLIF because a setting that was set once reads back as ''.

CREATE TABLE public.customer_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    email text,
    ip inet,
    payload jsonb NOT NULL DEFAULT '{}'
);
-- The order in which maintenance walks through a tenant's rows.
CREATE INDEX customer_event_tenant_id_occurred_at_id ON public.customer_event (tenant_id, occurred_at, id);

CREATE TABLE public.retention_policy (
    tenant_id uuid NOT NULL,
    table_name text NOT NULL,
    -- The floor is there for typing errors: '30' alone would mean 30 seconds.
    keep_for interval NOT NULL CHECK (keep_for >= interval '1 day'),
    enabled boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant_id, table_name),
    CONSTRAINT retention_policy_target CHECK (table_name IN ('customer_event'))
);

CREATE TABLE public.pii_policy (
    tenant_id uuid NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    action text NOT NULL,
    scrub_after interval NOT NULL CHECK (scrub_after >= interval '0'),
    enabled boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant_id, table_name, column_name),
    CONSTRAINT pii_policy_target CHECK (
        (table_name, column_name, action) IN (
            ('customer_event', 'email', 'null'),
            ('customer_event', 'email', 'redact'),
            ('customer_event', 'email', 'hash'),
            ('customer_event', 'ip', 'null'),
            ('customer_event', 'payload', 'redact')
        )
    )
);

-- One row per batch, written by the batch's own transaction; one row per policy for a dry run.
CREATE TABLE public.maintenance_audit (
    tenant_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    task_id text,
    correlation_id text,
    kind text NOT NULL CHECK (kind IN ('scrub_pii', 'apply_retention')),
    table_name text NOT NULL,
    column_name text,
    action text NOT NULL CHECK (action IN ('delete', 'null', 'redact', 'hash')),
    -- Rows that occurred before this moment were due.
    cutoff timestamptz NOT NULL,
    dry_run boolean NOT NULL,
    rows_matched bigint NOT NULL,
    rows_changed bigint NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CHECK (rows_changed BETWEEN 0 AND rows_matched),
    CHECK (NOT dry_run OR rows_changed = 0)
);

ALTER TABLE public.customer_event ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.customer_event FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.customer_event
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));

ALTER TABLE public.retention_policy ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.retention_policy FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.retention_policy
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));

ALTER TABLE public.pii_policy ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.pii_policy FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.pii_policy
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));

ALTER TABLE public.maintenance_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.maintenance_audit FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.maintenance_audit
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));
-- An audit is not updated and not deleted from, by its owner either; TRUNCATE is left to the owner.
CREATE POLICY never_updated ON public.maintenance_audit AS RESTRICTIVE FOR UPDATE USING (false);
CREATE POLICY never_deleted ON public.maintenance_audit AS RESTRICTIVE FOR DELETE USING (false);

-- Row-level security cannot be put on a materialized view, and FORCE makes its owner refresh it from no rows at all.
-- So the refresh says what it is doing in a transaction-local setting, and this policy opens the source to the
-- view's owner alone while it says so (see docs/decisions/0004-refreshing-views-over-tenants.md).
CREATE MATERIALIZED VIEW public.mv_maintenance_activity AS
SELECT
    tenant_id,
    (started_at AT TIME ZONE 'UTC')::date AS day,
    kind,
    table_name,
    dry_run,
    count(*) AS batches,
    sum(rows_matched)::bigint AS rows_matched,
    sum(rows_changed)::bigint AS rows_changed,
    max(finished_at) AS last_finished_at
FROM public.maintenance_audit
GROUP BY 1, 2, 3, 4, 5;
CREATE UNIQUE INDEX mv_maintenance_activity_key
    ON public.mv_maintenance_activity (tenant_id, day, kind, table_name, dry_run);
CREATE POLICY view_refresh ON public.maintenance_audit FOR SELECT
    USING (
        (SELECT current_setting('app.refreshing_view', true)) = 'mv_maintenance_activity'
        AND EXISTS (
            SELECT
            FROM pg_catalog.pg_matviews
            WHERE schemaname = 'public'
              AND matviewname = 'mv_maintenance_activity'
              AND matviewowner = current_user
        )
    );

-- What tenants read: their own rows of the materialized view.
CREATE VIEW public.maintenance_activity WITH (security_barrier) AS
SELECT *
FROM public.mv_maintenance_activity
WHERE tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid);

-- Of the materialized view itself nothing is granted: it holds the rows of all tenants.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') AND current_user <> 'app_user' THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.customer_event, public.retention_policy, public.pii_policy
            TO app_user;
        GRANT SELECT, INSERT ON public.maintenance_audit TO app_user;
        GRANT SELECT ON public.maintenance_activity TO app_user;
    END IF;
END
$$;
