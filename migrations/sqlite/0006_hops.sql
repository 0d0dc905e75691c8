-- The servers that an event has passed through before this one: how many, in one byte, and the names of each in eight.
-- NULL: it came from its publisher.
ALTER TABLE event ADD COLUMN hops BLOB;
