-- What `postrider migrate-store` copies here from an embedded store, and how far it is.

-- At most one row. While it is not finished, no node starts on this database.
CREATE TABLE transfer (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    source      bytea NOT NULL, -- a hash of the keys of the embedded store
    state       bytea NOT NULL, -- a hash of what a server changes there whenever it works on it
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);

CREATE TABLE transfer_progress (
    name      text PRIMARY KEY,
    through   bigint NOT NULL, -- the last key of the embedded store's table that is here with everything before it
    row_count bigint NOT NULL,
    is_done   boolean NOT NULL
);
