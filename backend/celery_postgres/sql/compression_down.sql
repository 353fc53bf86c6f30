-- Back to what stock's tables have. What is stored stays as it is, and readable.
ALTER TABLE kombu_message
    ALTER COLUMN payload SET STORAGE EXTENDED, ALTER COLUMN payload SET COMPRESSION default;
ALTER TABLE celery_taskmeta
    ALTER COLUMN result SET COMPRESSION default;
