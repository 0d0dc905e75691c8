-- Times are microseconds since 1970-01-01T00:00:00Z. `*_seq` are sequential numbers, never shown outside.
-- The small tables come first: the integrity check at start has a time limit and goes in this order.

-- Random keys and check values of this installation.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- Deliveries owed and ended, by tenant; what is owed and has not ended is pending.
CREATE TABLE counters (
    tenant    INTEGER PRIMARY KEY,
    events    INTEGER NOT NULL,
    owed      INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    dead      INTEGER NOT NULL,
    skipped   INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    attempts  INTEGER NOT NULL
) STRICT;

-- One row. Every delivery of an event before `low_water` has a row; `next_event` was never used.
CREATE TABLE progress (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    low_water  INTEGER NOT NULL,
    next_event INTEGER NOT NULL
) STRICT;

CREATE TABLE webhook (
    seq                  INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid                 BLOB NOT NULL UNIQUE,
    tenant               INTEGER NOT NULL,
    version              INTEGER NOT NULL,
    name                 TEXT NOT NULL,
    description          TEXT NOT NULL,
    url                  TEXT NOT NULL,
    decnet_secret        BLOB NOT NULL, -- sealed
    standard_key         BLOB NOT NULL, -- sealed
    signatures           TEXT NOT NULL, -- names, space between
    timeout_us           INTEGER NOT NULL,
    topic_patterns       TEXT NOT NULL, -- space between
    enabled              INTEGER NOT NULL,
    max_in_flight        INTEGER NOT NULL,
    retry_schedule       TEXT,          -- seconds, space between; NULL: the server's default
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    deleted_at           INTEGER,
    consecutive_failures INTEGER NOT NULL DEFAULT 0,
    last_success_at      INTEGER,
    last_failure_at      INTEGER,
    last_error           TEXT,
    auto_disabled_at     INTEGER
) STRICT;

CREATE UNIQUE INDEX webhook_name ON webhook (tenant, name) WHERE deleted_at IS NULL;

CREATE TABLE token (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       BLOB NOT NULL UNIQUE,
    tenant     INTEGER NOT NULL,
    name       TEXT NOT NULL,
    scopes     TEXT NOT NULL,        -- names, space between
    hash       BLOB NOT NULL UNIQUE, -- SHA-256 of the token
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

-- `owed` are the webhooks it is or was owed to, as src/store/sqlite/owed.rs codes them. It stands before
-- `body`, so that a scan for what is owed reads no overflow page.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY,
    id_hash     INTEGER NOT NULL, -- of tenant and id, under a key of this installation
    tenant      INTEGER NOT NULL,
    id          TEXT NOT NULL,
    topic       TEXT NOT NULL,
    type        TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    owed        BLOB NOT NULL,
    body        BLOB NOT NULL
) STRICT;

-- Not unique: 64 bits can collide. The one writer compares the ids themselves.
CREATE INDEX event_id ON event (id_hash);

-- What there is to say about a delivery. An owed webhook without a row is pending and was never attempted.
-- Clustered by event, so that rows are appended. The first attempt is a part of the row.
CREATE TABLE delivery (
    event_seq         INTEGER NOT NULL,
    webhook_seq       INTEGER NOT NULL,
    state             INTEGER NOT NULL, -- 0 delivered, 1 dead, 2 skipped, 3 discarded, 4 pending
    attempts          INTEGER NOT NULL,
    round_attempts    INTEGER NOT NULL, -- since it was accepted or last asked for again
    next_at           INTEGER,          -- set exactly when pending
    updated_at        INTEGER NOT NULL,
    status_code       INTEGER,          -- of the last attempt
    reason            TEXT,
    first_started_at  INTEGER,
    first_duration_us INTEGER,
    first_status_code INTEGER,
    first_error       TEXT,
    first_response    BLOB,
    PRIMARY KEY (event_seq, webhook_seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX delivery_due ON delivery (webhook_seq, next_at, event_seq) WHERE state = 4;
-- BETWEEN, because every write of a row evaluates it, and IN builds a temporary B-tree each time.
CREATE INDEX delivery_ended ON delivery (state, event_seq, webhook_seq) WHERE state BETWEEN 1 AND 3;

-- Attempts beyond the first.
CREATE TABLE attempt (
    event_seq   INTEGER NOT NULL,
    webhook_seq INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    status_code INTEGER,
    error       TEXT,
    response    BLOB NOT NULL,
    PRIMARY KEY (event_seq, webhook_seq, number)
) STRICT, WITHOUT ROWID;

INSERT INTO tenant (seq, name) VALUES (1, 'default');
INSERT INTO progress (only, low_water, next_event) VALUES (1, 1, 1);
