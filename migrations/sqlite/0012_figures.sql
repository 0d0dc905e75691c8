-- What happened in a step of time: how much was accepted, delivered and so on, and how long it took.
-- `webhook` 0 is the sum of a tenant, and `tenant` 0 beside it the sum of all.
CREATE TABLE figure (
    step       INTEGER NOT NULL, -- 0 minute, 1 hour, 2 day
    at         INTEGER NOT NULL, -- its beginning
    tenant     INTEGER NOT NULL,
    webhook    INTEGER NOT NULL,
    node       INTEGER NOT NULL, -- the writer of the row; 0: the only node, or the one that made it of smaller steps
    accepted   INTEGER NOT NULL,
    delivered  INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    dead       INTEGER NOT NULL,
    skipped    INTEGER NOT NULL,
    attempts   BLOB NOT NULL,    -- histograms of durations
    deliveries BLOB NOT NULL,
    PRIMARY KEY (step, at, tenant, webhook, node)
) STRICT, WITHOUT ROWID;

-- How far hours and days are made. Before `at` all are; of the one that begins there those up to a tenant and webhook.
CREATE TABLE figure_mark (
    step    INTEGER PRIMARY KEY, -- 1 hour, 2 day
    at      INTEGER NOT NULL,
    tenant  INTEGER NOT NULL,    -- -1: none yet
    webhook INTEGER NOT NULL
) STRICT;

INSERT INTO figure_mark (step, at, tenant, webhook) VALUES (1, 0, -1, -1), (2, 0, -1, -1);
