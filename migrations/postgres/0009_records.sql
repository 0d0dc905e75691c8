-- What operators write is written by statements that both stores share. These say nothing of shards, which only nodes that
-- share a store have: the shard of a new webhook is set by a statement after the one that makes it.
ALTER TABLE webhook ALTER COLUMN shard SET DEFAULT 0;
