-- Settings of webhooks that no statement looks into, as one sealed JSON text: some of them are secrets.
ALTER TABLE webhook ADD COLUMN policy BLOB;

-- While the circuit is open: when the next attempt may be made, and how long the present cool-down is.
ALTER TABLE webhook ADD COLUMN probe_at INTEGER;
ALTER TABLE webhook ADD COLUMN cool_down_us INTEGER NOT NULL DEFAULT 0;

-- Set while the program, not the owner, has turned the webhook off.
ALTER TABLE webhook ADD COLUMN off_reason TEXT;
ALTER TABLE webhook ADD COLUMN off_at INTEGER;
