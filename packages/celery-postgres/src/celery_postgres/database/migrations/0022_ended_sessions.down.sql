-- step: drop the sessions that were ended
DROP TABLE IF EXISTS console_ended_session;
