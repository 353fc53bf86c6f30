-- Back to stock Celery's tables. Results stay; chords that are under way lose their bodies.

-- guard: chords are under way in celery_chord (%s): let their tasks end; what a rolled-back transaction left there expires as results do
-- unless: to_regclass('celery_chord') IS NULL
SELECT count(*) FROM celery_chord;

-- step: drop the functions
DROP FUNCTION IF EXISTS celery_size_chord(text, integer), celery_save_group(text, bytea, timestamp),
    celery_give_up_waiting(bigint, text[]);

-- step: drop the tables
DROP TABLE IF EXISTS celery_chord_part, celery_chord, celery_waiter;
DROP SEQUENCE IF EXISTS celery_listener_sequence;

-- step: drop the default of celery_tasksetmeta.id
ALTER TABLE celery_tasksetmeta ALTER COLUMN id DROP DEFAULT;

-- step: drop celery_taskmeta.children
ALTER TABLE celery_taskmeta DROP COLUMN IF EXISTS children;
