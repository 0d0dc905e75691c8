-- What happened in a step of time: how much was accepted, delivered and so on, and how long it took.
-- `webhook` 0 is the sum of a tenant, and `tenant` 0 beside it the sum of all.
CREATE TABLE figure (
    step       smallint NOT NULL, -- 0 minute, 1 hour, 2 day
    at         bigint NOT NULL,   -- its beginning
    tenant     bigint NOT NULL,
    webhook    bigint NOT NULL,
    node       bigint NOT NULL,   -- the writer of the row; 0: the one that made it of smaller steps
    accepted   bigint NOT NULL,
    delivered  bigint NOT NULL,
    failed     bigint NOT NULL,
    dead       bigint NOT NULL,
    skipped    bigint NOT NULL,
    attempts   bytea NOT NULL,    -- histograms of durations
    deliveries bytea NOT NULL,
    PRIMARY KEY (step, at, tenant, webhook, node)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- How far hours and days are made. Before `at` all are; of the one that begins there those up to a tenant and webhook.
CREATE TABLE figure_mark (
    step    smallint PRIMARY KEY, -- 1 hour, 2 day
    at      bigint NOT NULL,
    tenant  bigint NOT NULL,      -- -1: none yet
    webhook bigint NOT NULL
);

INSERT INTO figure_mark (step, at, tenant, webhook) VALUES (1, 0, -1, -1), (2, 0, -1, -1);
