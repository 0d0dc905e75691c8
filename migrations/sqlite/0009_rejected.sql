-- What a source brought that can never be an event, until somebody sends it again or discards it.
CREATE TABLE rejected (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       BLOB NOT NULL UNIQUE,
    source     TEXT NOT NULL,    -- its name
    tenant     INTEGER NOT NULL,
    origin_id  TEXT,             -- NULL: the origin gives no ids
    attributes TEXT NOT NULL,    -- what came beside the body, a JSON object of texts
    body       BLOB NOT NULL,    -- at most its first MiB
    length     INTEGER NOT NULL, -- of the body as it came
    digest     BLOB NOT NULL,    -- SHA-256 of length and body
    reason     TEXT NOT NULL,
    at         INTEGER NOT NULL
) STRICT;

CREATE INDEX rejected_source ON rejected (source, seq, length);

CREATE UNIQUE INDEX rejected_origin ON rejected (source, origin_id, digest);

CREATE INDEX rejected_at ON rejected (at);
