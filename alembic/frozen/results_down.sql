-- Back to stock Celery's tables. Results stay; chords that are under way lose their bodies.
DROP FUNCTION IF EXISTS celery_size_chord(text, integer), celery_save_group(text, bytea, timestamp),
    celery_give_up_waiting(bigint, text[]);
ALTER TABLE celery_tasksetmeta
    DROP CONSTRAINT IF EXISTS celery_tasksetmeta_date_done, ALTER COLUMN id DROP DEFAULT;
DROP TABLE celery_chord_part, celery_chord, celery_waiter;
DROP SEQUENCE celery_listener_sequence;
ALTER TABLE celery_taskmeta DROP COLUMN children;
