-- How many dead letters there are by queue, %(cap)s of the newest at most, and how many of them came in the last 15
-- minutes; those of queues that are not in %(queues)s together as `other`.
SELECT
    CASE WHEN dead.queue = ANY(%(queues)s) THEN dead.queue ELSE 'other' END,
    count(*),
    count(*) FILTER (WHERE dead.died_at > now() - interval '15 minutes')
FROM (
    SELECT letter.queue, letter.died_at FROM public.kombu_dead_letter AS letter ORDER BY letter.died_at DESC LIMIT %(cap)s
) AS dead
GROUP BY 1
