-- Waiting messages stay, and hold no key. The index goes with its column.

-- step: drop the unique key
DROP FUNCTION IF EXISTS kombu_publish_unique(
    bigint, text, smallint, text, uuid, timestamptz, timestamptz, bigint, bigint, uuid, smallint, timestamptz, text, text,
    double precision, double precision
);
ALTER TABLE kombu_message
    DROP COLUMN IF EXISTS unique_key, DROP COLUMN IF EXISTS unique_until, DROP COLUMN IF EXISTS unique_ends_at;
