-- What many nodes need: health apart from settings, changes that can be asked for, and more about the nodes.

-- Health changes with every failed attempt, settings hardly ever. In a table of its own it is short, and a change of it
-- is no change of the webhook.
CREATE TABLE webhook_health (
    seq                  bigint PRIMARY KEY, -- the webhook's
    consecutive_failures bigint NOT NULL DEFAULT 0,
    last_success_at      bigint,
    last_failure_at      bigint,
    last_error           text,
    auto_disabled_at     bigint,
    probe_at             bigint,             -- while the circuit is open: when the next attempt may be made,
    cool_down_us         bigint NOT NULL DEFAULT 0 -- and how long the present cool-down is
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

INSERT INTO webhook_health
SELECT seq, consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at, cool_down_us
FROM webhook;

-- `changed_in` is the transaction that changed the row last. Who has seen a snapshot asks for what was changed in
-- transactions that had not ended then, and misses nothing, in whatever order they end.
ALTER TABLE webhook
    DROP COLUMN consecutive_failures,
    DROP COLUMN last_success_at,
    DROP COLUMN last_failure_at,
    DROP COLUMN last_error,
    DROP COLUMN auto_disabled_at,
    DROP COLUMN probe_at,
    DROP COLUMN cool_down_us,
    ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    ADD COLUMN circuit_closed_by bigint NOT NULL DEFAULT 0; -- the version with which an operator last closed the circuit

ALTER TABLE tenant ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE INDEX webhook_changed ON webhook (changed_in);
CREATE INDEX tenant_changed ON tenant (changed_in);

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END;
$$;

CREATE TRIGGER webhook_changes BEFORE UPDATE ON webhook FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER tenant_changes BEFORE UPDATE ON tenant FOR EACH ROW EXECUTE FUNCTION note_change();

ALTER TABLE node
    ADD COLUMN address  text NOT NULL DEFAULT '',
    ADD COLUMN version  text NOT NULL DEFAULT '',
    ADD COLUMN lease_us bigint NOT NULL DEFAULT 0,
    ADD COLUMN draining boolean NOT NULL DEFAULT false, -- an operator wants it to own nothing
    ADD COLUMN stopping boolean NOT NULL DEFAULT false;
