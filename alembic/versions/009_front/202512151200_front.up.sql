-- What the HTTP front needs, under row-level security: API keys, and which tenant submitted which task.

-- A key is shown once, when it is issued. Here is only the SHA-256 of it: 256 random bits cannot be guessed, so a slow
-- hash would protect nothing and cost each request its time.
CREATE TABLE public.api_key (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_key_tenant_id_created_at ON public.api_key (tenant_id, created_at);

-- Who owns a task, also before it has a result. Written in the transaction that enqueues it.
CREATE TABLE public.task_submission (
    tenant_id uuid NOT NULL,
    task_id text NOT NULL CHECK (length(task_id) BETWEEN 1 AND 155),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 155),
    -- What the client calls this submission, and the SHA-256 of what it submitted: never the payload itself.
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint bytea CHECK (octet_length(fingerprint) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, task_id),
    CHECK ((idempotency_key IS NULL) = (fingerprint IS NULL))
);
CREATE UNIQUE INDEX task_submission_idempotency_key ON public.task_submission (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- The order in which a tenant's tasks are listed.
CREATE INDEX task_submission_tenant_id_created_at ON public.task_submission (tenant_id, created_at, task_id);

ALTER TABLE public.api_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.api_key FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.api_key
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));
-- A key says who its tenant is, so it is read before a tenant is known: by its id, which whoever presents the key knows,
-- one row, and to read alone. No function that runs as somebody else, and no role that may pass by the policies.
CREATE POLICY key_lookup ON public.api_key FOR SELECT
    USING (id = (SELECT NULLIF(current_setting('app.api_key_id', true), '')::uuid));

ALTER TABLE public.task_submission ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.task_submission FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.task_submission
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::uuid));

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') AND current_user <> 'app_user' THEN
        GRANT SELECT, INSERT, UPDATE ON public.api_key TO app_user;
        GRANT SELECT, INSERT, DELETE ON public.task_submission TO app_user;
    END IF;
END
$$;
