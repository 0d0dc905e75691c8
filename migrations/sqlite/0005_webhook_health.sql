-- Health changes with every failed attempt, settings hardly ever. In a table of its own it is short, so that many
-- webhooks' health is on one page, and a commit of many failures writes few pages.
CREATE TABLE webhook_health (
    seq                  INTEGER PRIMARY KEY, -- the webhook's
    consecutive_failures INTEGER NOT NULL DEFAULT 0,
    last_success_at      INTEGER,
    last_failure_at      INTEGER,
    last_error           TEXT,
    auto_disabled_at     INTEGER,
    probe_at             INTEGER,
    cool_down_us         INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO webhook_health
SELECT seq, consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at, cool_down_us
FROM webhook;

ALTER TABLE webhook DROP COLUMN consecutive_failures;
ALTER TABLE webhook DROP COLUMN last_success_at;
ALTER TABLE webhook DROP COLUMN last_failure_at;
ALTER TABLE webhook DROP COLUMN last_error;
ALTER TABLE webhook DROP COLUMN auto_disabled_at;
ALTER TABLE webhook DROP COLUMN probe_at;
ALTER TABLE webhook DROP COLUMN cool_down_us;
