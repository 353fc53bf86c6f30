-- Back to stock Celery's tables. Results stay; chords that are under way lose their bodies.
DROP TABLE celery_chord_part, celery_chord, celery_waiter;
DROP SEQUENCE celery_listener_sequence;
ALTER TABLE celery_taskmeta DROP COLUMN children;
