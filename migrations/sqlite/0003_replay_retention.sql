-- Answers to requests with an `Idempotency-Key`, so that the same request gets the same answer.
CREATE TABLE idempotency (
    seq        INTEGER PRIMARY KEY,
    tenant     INTEGER NOT NULL,
    key        TEXT NOT NULL,
    body_hash  BLOB NOT NULL,    -- SHA-256 of the request's body
    expires_at INTEGER NOT NULL,
    receipts   TEXT NOT NULL,    -- JSON: [[event id, webhooks it is owed to], …]
    UNIQUE (tenant, key)
) STRICT;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- Jobs that go through stored deliveries in order of acceptance, and make them pending again or discard them.
CREATE TABLE replay_job (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid              BLOB NOT NULL UNIQUE,
    tenant            INTEGER NOT NULL,
    webhook_seq       INTEGER,          -- NULL: every webhook of the tenant
    states            TEXT NOT NULL,    -- names, space between
    topic             TEXT,             -- a pattern
    since             INTEGER,
    until             INTEGER,
    include_unmatched INTEGER NOT NULL,
    discard_reason    TEXT,             -- set: it discards
    rate_per_s        INTEGER NOT NULL,
    first_event       INTEGER NOT NULL, -- it looks at these
    last_event        INTEGER NOT NULL,
    state             INTEGER NOT NULL, -- 0 queued, 1 running, 2 done, 3 cancelled, 4 failed
    reason            TEXT,             -- why it was cancelled or has failed
    cursor_event      INTEGER NOT NULL, -- the last place looked at
    cursor_webhook    INTEGER NOT NULL,
    scanned           INTEGER NOT NULL,
    changed           INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
) STRICT;

CREATE INDEX replay_job_unfinished ON replay_job (tenant, seq) WHERE state < 2;
