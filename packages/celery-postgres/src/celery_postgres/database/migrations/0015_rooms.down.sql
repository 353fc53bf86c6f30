-- step: drop the function kombu_rooms
DROP FUNCTION IF EXISTS kombu_rooms(bigint, bigint[], bigint[]);
