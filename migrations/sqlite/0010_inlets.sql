-- Where other senders' webhooks come in.
CREATE TABLE inlet (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       BLOB NOT NULL UNIQUE, -- in its URL
    tenant     INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    name       TEXT NOT NULL,
    settings   BLOB NOT NULL, -- JSON, sealed: it has the sender's secrets
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX inlet_name ON inlet (tenant, name);
