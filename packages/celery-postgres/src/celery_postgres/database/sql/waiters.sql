-- Which listener waits for the result of which task.

-- name: await_results
-- Registers a listener for the results of some tasks; each has a slot, the number that its notification carries.
-- takes: listener bigint, task_ids text[], slots bigint[]
INSERT INTO celery_waiter AS waiter (task_id, listener, slot)
SELECT one.task_id, %(listener)s, one.slot
FROM unnest(%(task_ids)s, %(slots)s) AS one (task_id, slot)
ORDER BY one.task_id
ON CONFLICT DO NOTHING

-- name: stop_waiting
-- Removes a listener's registrations for some tasks.
-- takes: listener bigint, task_ids text[]
SELECT celery_give_up_waiting(%(listener)s, %(task_ids)s)

-- name: drop_old_waiters
-- Deletes registrations that killed listeners have left for tasks that never ended.
-- takes: seconds float
DELETE FROM celery_waiter AS waiter
WHERE waiter.ctid = ANY (ARRAY(
    SELECT candidate.ctid FROM celery_waiter AS candidate
    WHERE candidate.since < now() - %(seconds)s * interval '1 second'
    FOR UPDATE SKIP LOCKED
))
