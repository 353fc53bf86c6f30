-- Sessions of the console that were ended before their time, by signing out. Older releases neither read nor write it.

-- `digest` is the SHA-256 of what the cookie of a session has at random, so nothing here signs anybody in. Rows of the last
-- day are kept: a session ends after 12 h.
-- step: create console_ended_session
CREATE TABLE IF NOT EXISTS console_ended_session (
    digest text PRIMARY KEY,
    ended_at timestamptz NOT NULL DEFAULT now()
);

-- A login that reads actions may serve a console.
-- step: grant console_ended_session to the roles of consoles
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT DISTINCT acl.grantee::regrole AS grantee
        FROM (SELECT (aclexplode(c.relacl)).* FROM pg_class AS c WHERE c.oid = 'console_action'::regclass) AS acl
        WHERE acl.grantee <> 0 AND acl.privilege_type = 'SELECT'
          AND acl.grantee <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'console_action'::regclass)
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON console_ended_session TO %s', one.grantee);
    END LOOP;
END
$$;
