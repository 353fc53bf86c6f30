-- The wider ids stay, because there may be one that int4 cannot hold; stock works with both.

-- step: delete the messages of queues that no longer exist
DELETE FROM kombu_message AS message
WHERE NOT EXISTS (SELECT FROM kombu_queue AS queue WHERE queue.id = message.queue_id);

-- step: add the foreign key from messages to queues
-- unless: EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('kombu_message')
--   AND conname = 'FK_kombu_message_queue')
ALTER TABLE kombu_message
    ADD CONSTRAINT "FK_kombu_message_queue" FOREIGN KEY (queue_id) REFERENCES kombu_queue (id) NOT VALID;

-- step: validate the foreign key
ALTER TABLE kombu_message VALIDATE CONSTRAINT "FK_kombu_message_queue";
