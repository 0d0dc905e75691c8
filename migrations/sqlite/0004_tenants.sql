-- A name is unique among the living alone, which the first form of the table could not say.
CREATE TABLE tenant_of_4 (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid             BLOB NOT NULL UNIQUE,
    name             TEXT NOT NULL,
    description      TEXT NOT NULL,
    max_webhooks     INTEGER, -- quotas; NULL: unlimited
    max_events_per_s INTEGER,
    max_pending      INTEGER,
    created_at       INTEGER NOT NULL,
    deleted_at       INTEGER
) STRICT;

-- The UUID is of version 4. A tenant is as old as the oldest thing known of it.
INSERT INTO tenant_of_4 (seq, uuid, name, description, created_at)
SELECT
    seq,
    unhex(
        hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2)
        || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || hex(randomblob(6))
    ),
    name,
    '',
    min(
        CAST(unixepoch('subsec') * 1000000 AS INTEGER),
        coalesce((SELECT min(created_at) FROM token WHERE token.tenant = tenant.seq), 9223372036854775807),
        coalesce((SELECT min(created_at) FROM webhook WHERE webhook.tenant = tenant.seq), 9223372036854775807)
    )
FROM tenant;

DROP TABLE tenant;
ALTER TABLE tenant_of_4 RENAME TO tenant;
CREATE UNIQUE INDEX tenant_name ON tenant (name) WHERE deleted_at IS NULL;

-- To the minute.
ALTER TABLE token ADD COLUMN last_used_at INTEGER;

-- What was done by whom; names are those of that moment. It only grows.
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY,
    uuid        BLOB NOT NULL,
    at          INTEGER NOT NULL,
    tenant      INTEGER NOT NULL,
    actor_token BLOB,          -- UUID; NULL: the token of the environment
    actor_name  TEXT NOT NULL,
    action      TEXT NOT NULL, -- as in `webhook.create`
    target      TEXT,          -- its id, as the API shows it
    target_name TEXT,
    fields      TEXT NOT NULL, -- names of the settings given, space between; never values
    address     TEXT           -- of the client, as this server saw it
) STRICT;

CREATE INDEX audit_tenant ON audit (tenant);

CREATE TRIGGER audit_stays_as_it_is BEFORE UPDATE ON audit
BEGIN
    SELECT raise(ABORT, 'the audit log cannot be changed');
END;

CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN
    SELECT raise(ABORT, 'the audit log cannot be changed');
END;
