-- Messages in order are then messages of their keys like others. The index goes with its column.

-- step: drop the order
DROP FUNCTION IF EXISTS kombu_room_in_order(bigint, bigint, bigint);
ALTER TABLE kombu_message DROP COLUMN IF EXISTS in_order;
