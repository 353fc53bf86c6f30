-- How many dead letters there are, %(cap)s of the newest at most, by queue; those of queues that the caller does not name
-- together as `other`.
SELECT CASE WHEN dead.queue = ANY(%(queues)s) THEN dead.queue ELSE 'other' END, count(*)
FROM (
    SELECT letter.queue FROM public.kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT %(cap)s
) AS dead
GROUP BY 1
