-- What each node knows of changes: a change is answered when all nodes that are alive have taken it in.

-- The snapshot of the node's last look at changes. NULL: a program that does not say.
ALTER TABLE node ADD COLUMN known pg_snapshot;

-- The transaction that revoked a token, as `webhook` and `tenant` have that of their last change.
ALTER TABLE token ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE INDEX token_revoked ON token (changed_in) WHERE revoked_at IS NOT NULL;

CREATE TRIGGER token_changes BEFORE UPDATE OF revoked_at ON token FOR EACH ROW EXECUTE FUNCTION note_change();

-- Whether all that is visible in the one snapshot is visible in the other.
CREATE FUNCTION sees_all_of(later pg_snapshot, earlier pg_snapshot) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_snapshot_xmax(later) >= pg_snapshot_xmax(earlier) AND NOT EXISTS (
        SELECT FROM pg_snapshot_xip(later) AS running
        WHERE running < pg_snapshot_xmax(earlier) AND pg_visible_in_snapshot(running, earlier)
    )
$$;
