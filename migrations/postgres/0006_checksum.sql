-- Of what is sent, signed or shown to a template of an event (src/store/read_back.rs). NULL: an earlier version kept none.
ALTER TABLE event ADD COLUMN checksum bigint;
