-- step: no longer refuse stock consumers
DROP TRIGGER IF EXISTS kombu_message_stock ON kombu_message;

-- step: drop the function kombu_refuse_stock
DROP FUNCTION IF EXISTS kombu_refuse_stock();
