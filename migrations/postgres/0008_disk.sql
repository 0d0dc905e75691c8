-- What takes room has quotas, and the audit log an end.
ALTER TABLE tenant ADD COLUMN max_tokens bigint, ADD COLUMN max_stored_bytes bigint;

-- Bytes of the bodies of the events that are there.
ALTER TABLE counters ADD COLUMN stored_bytes bigint NOT NULL DEFAULT 0;

-- The length of a value is known without reading it.
INSERT INTO counters (tenant, slot, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
SELECT tenant, 0, 0, 0, 0, 0, 0, 0, 0, sum(octet_length(body)) FROM event GROUP BY tenant
ON CONFLICT (tenant, slot) DO UPDATE SET stored_bytes = excluded.stored_bytes;

-- Those that are good, or have expired.
CREATE INDEX token_live ON token (tenant, expires_at) WHERE revoked_at IS NULL;

CREATE INDEX audit_at ON audit (at);

-- What purges have deleted, until the log says so.
CREATE TABLE audit_purge (
    tenant   bigint PRIMARY KEY,
    lines    bigint NOT NULL,
    first_at bigint NOT NULL,
    last_at  bigint NOT NULL
);

DROP TRIGGER audit_stays ON audit;

CREATE TRIGGER audit_stays BEFORE UPDATE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();

-- Within the transaction of a purge alone the setting is there: lines from before may go.
CREATE FUNCTION refuse_deletion_from_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.at < nullif(current_setting('postrider.audit_purged_before', true), '')::bigint THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log cannot be changed';
END;
$$;

CREATE TRIGGER audit_stays_in_full BEFORE DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION refuse_deletion_from_audit();
