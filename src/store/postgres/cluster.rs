//! Nodes and the shards that they own. Every statement here is a transaction of its own.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{Connection, STATEMENT_TIMEOUT};
use super::{Shared, changes, counters, hints};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::fit::fit;
use crate::store::cluster::{
    ChangeMark, Changes, Cluster, Hint, Node, NodeRecord, Renewal, Renewed, TakenOver, Term, Unaware,
};
use crate::store::failure::{Failure, corrupt};
use crate::store::{Shard, StoreError};
use crate::webhook::WebhookSeq;

/// A claim skips shards for which a settlement is being committed, and shards that another node is claiming, so that it
/// never waits. `20562` is [`SHARD_LOCK`](super::fence::SHARD_LOCK).
const RENEW: &str = "
    WITH me AS (
        INSERT INTO node (uuid, name, address, version, started_at, seen_at, stopping, lease_us, known)
        VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7, '1:1:')
        ON CONFLICT (uuid) DO UPDATE SET
            seen_at = excluded.seen_at, stopping = excluded.stopping, lease_us = excluded.lease_us
        RETURNING draining
    ),
    share AS (
        SELECT
            CASE
                WHEN $6 OR (SELECT draining FROM me) THEN 0
                ELSE ceil(256.0 / (1 + count(*) FILTER (WHERE NOT draining AND NOT stopping)))::bigint
            END AS most,
            (count(*) FILTER (WHERE (started_at, uuid) < ($5, $1)))::integer AS place
        FROM node
        WHERE uuid <> $1 AND seen_at > clock_timestamp() - lease_us * interval '1 microsecond'
    ),
    kept AS MATERIALIZED (
        SELECT shard.id
        FROM unnest($8::smallint[], $9::bigint[]) AS given (id, epoch)
            JOIN shard ON shard.id = given.id AND shard.epoch = given.epoch
        WHERE shard.holder = $1
        FOR NO KEY UPDATE OF shard SKIP LOCKED
    ),
    free AS MATERIALIZED (
        SELECT id
        FROM shard
        WHERE CASE
            WHEN id = ANY($8) THEN false
            WHEN holder IS NULL OR holder = $1 OR ($10 AND lease_until <= clock_timestamp())
                THEN pg_try_advisory_xact_lock(20562, id)
            ELSE false
        END
        ORDER BY id
        LIMIT greatest(0, (SELECT most FROM share) - (SELECT count(*) FROM kept))
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    held AS (
        UPDATE shard SET
            holder = $1, epoch = shard.epoch + given.step,
            lease_until = clock_timestamp() + $7 * interval '1 microsecond'
        FROM (SELECT id, 0 AS step FROM kept UNION ALL SELECT id, 1 FROM free) AS given
        WHERE shard.id BETWEEN given.id AND given.id
        RETURNING shard.id, shard.epoch
    )
    SELECT held.id, held.epoch, me.draining, greatest(0, (SELECT count(*) FROM kept) - share.most), share.place
    FROM me CROSS JOIN share LEFT JOIN held ON true";

/// Goes from the first entry of one webhook in the index `pending_due` to the first of the next.
const OWED: &str = "
    WITH RECURSIVE owed AS (
        (
            SELECT webhook_seq, next_at FROM pending WHERE NOT in_memory
            ORDER BY webhook_seq, next_at LIMIT 1
        )
        UNION ALL
        SELECT next.webhook_seq, next.next_at
        FROM owed
            CROSS JOIN LATERAL (
                SELECT webhook_seq, next_at FROM pending
                WHERE NOT in_memory AND webhook_seq > owed.webhook_seq
                ORDER BY webhook_seq, next_at LIMIT 1
            ) AS next
    )
    SELECT webhook_seq, next_at
    FROM owed
        CROSS JOIN LATERAL (SELECT shard, deleted_at FROM webhook WHERE seq = owed.webhook_seq OFFSET 0) AS webhook
    WHERE webhook.shard = ANY($1) AND webhook.deleted_at IS NULL";

/// The time for a statement's way to the server, and for the server to cancel it, beside its timeout.
const STATEMENT_MARGIN: Duration = Duration::from_secs(5);

/// Scans the marked part of the queue. This runs once for each take-over.
const RETRIEVE: &str = "
    UPDATE pending SET in_memory = false
    WHERE in_memory AND event_seq <= $2
        AND (webhook_seq IN (SELECT seq FROM webhook WHERE shard = ANY($1))) IS TRUE";

/// The commit does not wait for the disk: the node knows the changes even if a crash of the server loses this record.
const KNOW: &str = "
    WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    UPDATE node SET known = $2::text::pg_snapshot
    FROM quick
    WHERE node.uuid = $1 AND EXISTS (
        SELECT FROM node AS other
        WHERE other.uuid <> $1 AND other.seen_at > clock_timestamp() - other.lease_us * interval '1 microsecond'
    )";

/// The present mark, and the nodes that have not recorded it, or the given mark.
const UNAWARE: &str = "
    SELECT pg_current_snapshot()::text, ARRAY(
        SELECT name FROM node
        WHERE uuid <> $1 AND seen_at > clock_timestamp() - lease_us * interval '1 microsecond'
            AND NOT sees_all_of(known, coalesce($2::text::pg_snapshot, pg_current_snapshot()))
        ORDER BY name
    )";

fn ids(shards: &[Shard]) -> Vec<i16> {
    shards.iter().map(|shard| i16::from(shard.number())).collect()
}

fn columns(terms: &[Term]) -> (Vec<i16>, Vec<i64>) {
    terms.iter().map(|term| (i16::from(term.shard.number()), term.epoch)).unzip()
}

fn shard(id: i16) -> Result<Shard, Failure> {
    u8::try_from(id).map(Shard::from_number).map_err(corrupt)
}

fn micros(duration: Duration) -> i64 {
    fit(duration.as_micros(), i64::MAX)
}

impl Shared {
    async fn control(&self) -> Result<Connection, StoreError> {
        self.control.get().await
    }

    async fn renew_now(&self, renewal: &Renewal) -> Result<Renewed, Failure> {
        let Node { uuid, name, address, version, started_at } = &renewal.node;
        let (ids, epochs) = columns(&renewal.held);
        let connection = self.control().await?;
        let rows = connection
            .query(
                RENEW,
                &[
                    uuid,
                    name,
                    address,
                    version,
                    started_at,
                    &renewal.is_draining,
                    &micros(renewal.lease),
                    &ids,
                    &epochs,
                    &renewal.takes_silent,
                ],
            )
            .await?;
        let mut renewed = Renewed::default();
        for row in &rows {
            renewed.is_draining = row.try_get(2)?;
            renewed.surplus = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or(0);
            self.slots.begin_at(row.try_get(4)?);
            if let Some(id) = row.try_get::<_, Option<i16>>(0)? {
                renewed.held.push(Term { shard: shard(id)?, epoch: row.try_get(1)? });
            }
        }
        renewed.held.sort_unstable();
        self.presence.begin(*uuid);
        Ok(renewed)
    }

    async fn take_over_now(&self, shards: &[Shard]) -> Result<TakenOver, Failure> {
        let connection = self.control().await?;
        let row = connection.query_one("SELECT last_value FROM event_number", &[]).await?;
        let through: EventSeq = row.try_get(0)?;
        let ids = ids(shards);
        connection.execute(RETRIEVE, &[&ids, &EventSeq(i64::MAX)]).await?;
        let records = changes::of_shards(&connection, &self.sealer, &ids).await?;
        let deleted = changes::deleted_of_shards(&connection, &ids).await?;
        connection.execute("DELETE FROM node WHERE seen_at < clock_timestamp() - interval '1 day'", &[]).await?;
        for record in &records {
            self.presence.note(record.seq, Shard::of(record.uuid));
        }
        Ok(TakenOver { webhooks: records, deleted, through })
    }

    async fn read_changes(&self, since: Option<&ChangeMark>) -> Result<Changes, Failure> {
        let mut connection = self.control.snapshot(None).await?;
        let row = connection.query_one("SELECT pg_current_snapshot()::text", &[]).await?;
        let mut changes = Changes {
            mark: ChangeMark(row.try_get(0)?),
            webhooks: Vec::new(),
            deleted_webhooks: Vec::new(),
            tenants: Vec::new(),
            deleted_tenants: Vec::new(),
            are_tokens_revoked: false,
        };
        if let Some(ChangeMark(since)) = since {
            changes.webhooks = changes::changed_webhooks(&connection, &self.sealer, since).await?;
            changes.deleted_webhooks = changes::deleted_webhooks(&connection, since).await?;
            (changes.tenants, changes.deleted_tenants) = changes::changed_tenants(&connection, since).await?;
            changes.are_tokens_revoked = changes::any_token_revoked(&connection, since).await?;
        }
        let usage = counters::usage(&connection).await?;
        connection.commit().await?;
        self.gauges.set(usage);
        for changed in &changes.webhooks {
            self.presence.note(changed.record.seq, Shard::of(changed.record.uuid));
        }
        Ok(changes)
    }

    async fn read_nodes(&self) -> Result<Vec<NodeRecord>, Failure> {
        let connection = self.control().await?;
        let rows = connection
            .query(
                "SELECT uuid, name, address, version, started_at,
                     (extract(epoch FROM clock_timestamp() - seen_at) * 1000000)::bigint,
                     seen_at > clock_timestamp() - lease_us * interval '1 microsecond', draining OR stopping,
                     ARRAY(
                         SELECT id FROM shard
                         WHERE holder = node.uuid AND lease_until > clock_timestamp()
                         ORDER BY id
                     )
                 FROM node ORDER BY started_at, uuid",
                &[],
            )
            .await?;
        rows.iter().map(node_record).collect()
    }
}

fn node_record(row: &Row) -> Result<NodeRecord, Failure> {
    let node = Node {
        uuid: row.try_get(0)?,
        name: row.try_get(1)?,
        address: row.try_get(2)?,
        version: row.try_get(3)?,
        started_at: row.try_get::<_, UnixMicros>(4)?,
    };
    let shards: Vec<i16> = row.try_get(8)?;
    Ok(NodeRecord {
        node,
        silent_for: Duration::from_micros(u64::try_from(row.try_get::<_, i64>(5)?).unwrap_or(0)),
        is_alive: row.try_get(6)?,
        is_draining: row.try_get(7)?,
        shards: shards.into_iter().map(shard).collect::<Result<_, _>>()?,
    })
}

#[async_trait]
impl Cluster for Shared {
    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        Ok(self.renew_now(renewal).await?)
    }

    async fn hand_over(&self, node: Uuid, terms: &[Term]) -> Result<(), StoreError> {
        let (ids, epochs) = columns(terms);
        let sql = "
            UPDATE shard SET holder = NULL, lease_until = NULL
            FROM unnest($2::smallint[], $3::bigint[]) AS given (id, epoch)
            WHERE shard.id BETWEEN given.id AND given.id AND shard.epoch = given.epoch AND shard.holder = $1";
        let connection = self.control().await?;
        connection.execute(sql, &[&node, &ids, &epochs]).await?;
        Ok(hints::notify(&connection, Hint::Shards).await?)
    }

    async fn leave(&self, node: Uuid) -> Result<(), StoreError> {
        let connection = self.control().await?;
        let free = "UPDATE shard SET holder = NULL, lease_until = NULL WHERE holder = $1";
        connection.execute(free, &[&node]).await?;
        connection.execute("DELETE FROM node WHERE uuid = $1", &[&node]).await?;
        Ok(hints::notify(&connection, Hint::Shards).await?)
    }

    async fn take_over(&self, shards: &[Shard]) -> Result<TakenOver, StoreError> {
        Ok(self.take_over_now(shards).await?)
    }

    async fn retrieve(&self, shards: &[Shard], through: EventSeq) -> Result<(), StoreError> {
        self.control().await?.execute(RETRIEVE, &[&ids(shards), &through]).await?;
        Ok(())
    }

    fn statements_end_after(&self) -> Duration {
        STATEMENT_TIMEOUT + STATEMENT_MARGIN
    }

    async fn pass_on(&self, keys: &[DeliveryKey]) -> Result<(), StoreError> {
        let events: Vec<_> = keys.iter().map(|key| key.event).collect();
        let webhooks: Vec<_> = keys.iter().map(|key| key.webhook).collect();
        let sql = "
            UPDATE pending SET in_memory = false
            FROM unnest($1::bigint[], $2::bigint[]) AS given (event_seq, webhook_seq)
            WHERE in_memory AND (pending.event_seq, pending.webhook_seq)
                BETWEEN (given.event_seq, given.webhook_seq) AND (given.event_seq, given.webhook_seq)";
        self.control().await?.execute(sql, &[&events, &webhooks]).await?;
        Ok(())
    }

    async fn owed(&self, shards: &[Shard]) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError> {
        let rows = self.control().await?.query(OWED, &[&ids(shards)]).await?;
        let owed = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(owed.collect::<Result<_, Failure>>()?)
    }

    async fn changes(&self, since: Option<&ChangeMark>) -> Result<Changes, StoreError> {
        Ok(self.read_changes(since).await?)
    }

    async fn know(&self, node: Uuid, mark: &ChangeMark) -> Result<(), StoreError> {
        self.control().await?.execute(KNOW, &[&node, &mark.0]).await?;
        Ok(())
    }

    async fn unaware(&self, node: Uuid, of: Option<&ChangeMark>) -> Result<Unaware, StoreError> {
        let connection = self.control().await?;
        let row = connection.query_one(UNAWARE, &[&node, &of.map(|ChangeMark(snapshot)| snapshot)]).await?;
        let read = || Ok::<_, Failure>(Unaware { mark: ChangeMark(row.try_get(0)?), nodes: row.try_get(1)? });
        Ok(read()?)
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        Ok(self.read_nodes().await?)
    }

    async fn set_draining(&self, node: Uuid, is_draining: bool) -> Result<bool, StoreError> {
        let sql = "UPDATE node SET draining = $2 WHERE uuid = $1";
        Ok(self.control().await?.execute(sql, &[&node, &is_draining]).await? > 0)
    }

    fn hint(&self, hint: Hint) {
        self.hints.send(hint);
    }

    fn listen(&self) -> mpsc::Receiver<Hint> {
        hints::listen(self.server.clone())
    }
}
