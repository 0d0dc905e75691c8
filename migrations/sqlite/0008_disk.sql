-- What takes room has quotas, and the audit log an end.
ALTER TABLE tenant ADD COLUMN max_tokens INTEGER;
ALTER TABLE tenant ADD COLUMN max_stored_bytes INTEGER;

-- Bytes of the bodies of the events that are there.
ALTER TABLE counters ADD COLUMN stored_bytes INTEGER NOT NULL DEFAULT 0;

-- Row by row: a GROUP BY would sort the bodies.
INSERT INTO counters (tenant, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
SELECT tenant, 0, 0, 0, 0, 0, 0, 0, length(body) FROM event WHERE true
ON CONFLICT (tenant) DO UPDATE SET stored_bytes = stored_bytes + excluded.stored_bytes;

-- Those that are good, or have expired.
CREATE INDEX token_live ON token (tenant, expires_at) WHERE revoked_at IS NULL;

CREATE INDEX audit_at ON audit (at);

-- Within the transaction of a purge alone it has a row: lines from before may go.
CREATE TABLE audit_purging (before INTEGER NOT NULL) STRICT;

-- What purges have deleted, until the log says so.
CREATE TABLE audit_purge (
    tenant   INTEGER PRIMARY KEY,
    lines    INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL
) STRICT;

DROP TRIGGER audit_stays;

CREATE TRIGGER audit_stays BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM audit_purging WHERE OLD.at < before)
BEGIN
    SELECT raise(ABORT, 'the audit log cannot be changed');
END;
