-- Sessions of the console that were ended by signing out.

-- name: end_session
-- End a session, and forget those that would have ended by themselves: they last 12 h.
-- takes: digest text
WITH forgotten AS (
    DELETE FROM console_ended_session AS ended WHERE ended.ended_at < now() - interval '1 day'
)
INSERT INTO console_ended_session (digest) VALUES (%(digest)s)
ON CONFLICT DO NOTHING

-- name: view_ended_session
-- A row if the session was ended.
-- takes: digest text
SELECT ended.ended_at FROM console_ended_session AS ended WHERE ended.digest = %(digest)s
