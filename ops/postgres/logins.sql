-- The logins of a database on the same machine, one for each account: PostgreSQL knows it from the socket (peer).
--   psql --set worker=celery --set migrator=celery-migrator --file logins.sql DATABASE
-- Run it after roles.sql, as a superuser, as often as you like.
SELECT format('CREATE ROLE %I LOGIN', login)
FROM (VALUES (:'worker'), (:'migrator')) AS wanted (login)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) \gexec
GRANT celery_worker TO :"worker";
GRANT celery_migrator TO :"migrator";
-- So that the role, and not the login, owns what the migrations create.
ALTER ROLE :"migrator" SET role = celery_migrator;
