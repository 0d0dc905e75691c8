//! Accepting events: one statement stores those of all callers that wait, each event with its queue entries and all
//! of it in one transaction.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::Shared;
use super::pool::Connection;
use super::presence::Presence;
use super::values::{event, text};
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::event::Hops;
use crate::fit::fit;
use crate::store::counters::Usage;
use crate::store::failure::Failure;
use crate::store::read_back::{ReadBack, checksum};
use crate::store::{Accepted, Disposition, NewEvent, Share, StoreError, owed};
use crate::webhook::{TenantSeq, WebhookSeq};

/// Tries of an event whose id is taken at the insert and free at the look-up, because a purge deletes it in between.
const MAX_TRIES: u32 = 3;

/// The id of an event is that of another event.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdTaken;

/// What became of events.
pub(super) struct Stored {
    /// One for each event, in order.
    pub(super) answers: Vec<Answer>,
    /// How much more each tenant uses.
    pub(super) used: BTreeMap<TenantSeq, Usage>,
    /// The highest event number given; 0: none.
    pub(super) newest: EventSeq,
}

pub(super) type Answer = Result<Accepted, IdTaken>;

/// The answers to the events of one call; an error names the first whose id is taken.
pub(super) fn all(answers: impl Iterator<Item = Answer>) -> Result<Vec<Accepted>, StoreError> {
    let named = |(index, answer): (usize, Answer)| answer.map_err(|IdTaken| StoreError::IdTaken { index });
    answers.enumerate().map(named).collect()
}

/// Refuses a call of several events if one has the id of another event, before anything of it is stored.
pub(super) async fn refuse_taken(
    connection: &Connection,
    shared: &Shared,
    events: &[NewEvent],
) -> Result<(), StoreError> {
    let events: Vec<&NewEvent> = events.iter().collect();
    let keys = keys(shared, &events);
    let mut answers = vec![None; events.len()];
    let all: Vec<usize> = (0..events.len()).collect();
    find(connection, &events, &keys, &all, &mut answers).await?;
    match answers.iter().position(|answer| matches!(answer, Some(Err(IdTaken)))) {
        Some(index) => Err(StoreError::IdTaken { index }),
        None => Ok(()),
    }
}

fn keys(shared: &Shared, events: &[&NewEvent]) -> Vec<Uuid> {
    events.iter().map(|new| shared.id_hash.wide(new.tenant, new.event.id())).collect()
}

/// Stores `events`, in a transaction of their own if none is under way. Of events with one id the first counts. `slot` is
/// the row of the counters that is theirs until the commit.
pub(super) async fn store(
    connection: &Connection,
    shared: &Shared,
    slot: i32,
    events: &[&NewEvent],
) -> Result<Stored, Failure> {
    let keys = keys(shared, events);
    let mut known: HashMap<Uuid, (Accepted, &NewEvent)> = HashMap::with_capacity(events.len());
    let (mut answers, mut open) = (vec![None; events.len()], first_of_each(&keys));
    let mut stored = Stored { answers: Vec::new(), used: BTreeMap::new(), newest: EventSeq(0) };
    for _ in 0..MAX_TRIES {
        insert(connection, (&shared.presence, slot), events, &keys, &open, &mut answers, &mut stored).await?;
        open.retain(|place| answers[*place].is_none());
        if open.is_empty() {
            break;
        }
        find(connection, events, &keys, &open, &mut answers).await?;
        open.retain(|place| answers[*place].is_none());
        if open.is_empty() {
            break;
        }
    }
    for (place, (key, new)) in keys.iter().zip(events).enumerate() {
        let answer = match (answers[place], known.get(key)) {
            (Some(answer), _) => {
                if let Ok(answer) = answer {
                    known.insert(*key, (as_duplicate(answer, new), new));
                }
                answer
            }
            (None, Some((duplicate, first))) if first.event.has_same_content(&new.event) => Ok(*duplicate),
            (None, Some(_)) => Err(IdTaken),
            (None, None) => {
                let reason = format!("the id {} is taken at one moment and free at the next", new.event.id());
                return Err(StoreError::Unavailable(reason).into());
            }
        };
        stored.answers.push(answer);
    }
    Ok(stored)
}

/// Places of the first event with each key.
fn first_of_each(keys: &[Uuid]) -> Vec<usize> {
    let mut seen = std::collections::HashSet::with_capacity(keys.len());
    (0..keys.len()).filter(|place| seen.insert(keys[*place])).collect()
}

/// The answer to a further event with the same id.
fn as_duplicate(answer: Accepted, new: &NewEvent) -> Accepted {
    match answer {
        Accepted::New { seq } => Accepted::Duplicate { seq, share: new.share() },
        duplicate @ Accepted::Duplicate { .. } => duplicate,
    }
}

/// Columns of the events to insert.
#[derive(Default)]
struct EventColumns<'a> {
    keys: Vec<Uuid>,
    tenants: Vec<TenantSeq>,
    accepted_at: Vec<UnixMicros>,
    ids: Vec<&'a str>,
    topics: Vec<&'a str>,
    kinds: Vec<&'a [u8]>,
    owed: Vec<Vec<u8>>,
    bodies: Vec<&'a [u8]>,
    /// Of the bodies.
    lengths: Vec<i64>,
    hops: Vec<Option<Vec<u8>>>,
    checksums: Vec<i64>,
    /// The numbers of deliveries of each event, and of the skipped ones among them.
    deliveries: Vec<i64>,
    skipped: Vec<i64>,
}

/// Columns of the queue's entries. Places are those of the events, from 1.
#[derive(Default)]
struct QueueColumns {
    places: Vec<i64>,
    webhooks: Vec<WebhookSeq>,
    next_at: Vec<UnixMicros>,
    accepted_at: Vec<UnixMicros>,
    in_memory: Vec<bool>,
    /// The shards of webhooks whose lanes shall hold the delivery in memory.
    shards: Vec<Option<i16>>,
}

/// Columns of deliveries that are skipped.
#[derive(Default)]
struct SkippedColumns<'a> {
    places: Vec<i64>,
    webhooks: Vec<WebhookSeq>,
    accepted_at: Vec<UnixMicros>,
    reasons: Vec<&'a str>,
}

#[derive(Default)]
struct Columns<'a> {
    events: EventColumns<'a>,
    queue: QueueColumns,
    skipped: SkippedColumns<'a>,
}

impl<'a> Columns<'a> {
    fn add(&mut self, presence: &Presence, key: Uuid, new: &'a NewEvent) {
        let events = &mut self.events;
        events.keys.push(key);
        events.tenants.push(new.tenant);
        events.accepted_at.push(new.accepted_at);
        events.ids.push(new.event.id());
        events.topics.push(new.event.topic().as_str());
        events.kinds.push(new.event.kind().as_bytes());
        events.owed.push(owed::encode(new.owed.iter().map(|owed| owed.webhook)));
        events.bodies.push(&new.event.body()[..]);
        events.lengths.push(fit(new.event.body().len(), i64::MAX));
        events.hops.push(new.event.hops().map(Hops::to_bytes));
        events.checksums.push(checksum(&new.event));
        let place = fit(events.keys.len(), i64::MAX);
        let mut skipped = 0;
        for owed in &new.owed {
            let (next_at, in_memory) = match owed.disposition {
                Disposition::InMemory => (new.accepted_at, true),
                Disposition::Stored => (new.accepted_at, false),
                Disposition::Later(due_at) => (due_at, false),
                Disposition::Skipped(reason) => {
                    self.skipped.places.push(place);
                    self.skipped.webhooks.push(owed.webhook);
                    self.skipped.accepted_at.push(new.accepted_at);
                    self.skipped.reasons.push(reason);
                    skipped += 1;
                    continue;
                }
            };
            self.queue.places.push(place);
            self.queue.webhooks.push(owed.webhook);
            self.queue.next_at.push(next_at);
            self.queue.accepted_at.push(new.accepted_at);
            self.queue.in_memory.push(in_memory);
            let shard = if in_memory { presence.shard(owed.webhook) } else { None };
            self.queue.shards.push(shard.map(|shard| i16::from(shard.number())));
        }
        self.events.deliveries.push(fit(new.owed.len(), i64::MAX));
        self.events.skipped.push(skipped);
    }
}

/// The first transaction that inserts an id into `event_id` stores the event. A second one waits for the commit of the
/// first, and then finds the id taken. Ids are inserted in order, which prevents deadlocks. The condition `(… IN (…))
/// IS TRUE` for new ids is always planned as a look-up in a hash.
///
/// `own` are the shards of this node, read after the events got their numbers. An entry is marked as held in memory
/// only if its shard is among them, since the next owner clears the marks of all events that have numbers before its
/// take-over. A function reads the shards, because this statement itself would see the owners as of its beginning.
/// Without entries to hold, the function is not called.
const INSERT: &str = "
    WITH numbers AS MATERIALIZED (
        SELECT array_agg(nextval('event_number')) AS taken FROM generate_series(1, cardinality($2::uuid[]))
    ),
    own AS MATERIALIZED (
        SELECT unnest(
            CASE WHEN cardinality($23::smallint[]) > 0
                THEN shards_owned_now((SELECT taken FROM numbers), $23, $21)
            END
        ) AS id
    ),
    fresh AS (
        INSERT INTO event_id (key, event_seq)
        SELECT key, (SELECT taken FROM numbers)[place]
        FROM unnest($2::uuid[]) WITH ORDINALITY AS given (key, place)
        ORDER BY key
        ON CONFLICT (key) DO NOTHING
        RETURNING event_seq
    ),
    stored AS (
        INSERT INTO event (seq, tenant, accepted_at, id, topic, type, owed, body, hops, checksum)
        SELECT (SELECT taken FROM numbers)[place], tenant, accepted_at, id, topic, type, owed, body, hops, checksum
        FROM unnest(
            $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::bytea[], $24::bytea[], $25::bigint[]
        ) WITH ORDINALITY AS given (tenant, accepted_at, id, topic, type, owed, body, hops, checksum, place)
        WHERE ((SELECT taken FROM numbers)[place] IN (SELECT event_seq FROM fresh)) IS TRUE
    ),
    queued AS (
        INSERT INTO pending
            (event_seq, webhook_seq, next_at, updated_at, attempts, round_attempts, in_memory)
        SELECT (SELECT taken FROM numbers)[place], webhook_seq, next_at, accepted_at, 0, 0,
            in_memory AND ($21::uuid IS NULL OR (shard IN (SELECT id FROM own)) IS TRUE)
        FROM unnest($12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::boolean[], $22::smallint[])
            AS given (place, webhook_seq, next_at, accepted_at, in_memory, shard)
        WHERE ((SELECT taken FROM numbers)[place] IN (SELECT event_seq FROM fresh)) IS TRUE
    ),
    passed_over AS (
        INSERT INTO delivery (event_seq, webhook_seq, updated_at, state, attempts, round_attempts, reason)
        SELECT (SELECT taken FROM numbers)[place], webhook_seq, accepted_at, 2, 0, 0, reason
        FROM unnest($17::bigint[], $18::bigint[], $19::bigint[], $20::text[])
            AS given (place, webhook_seq, accepted_at, reason)
        WHERE ((SELECT taken FROM numbers)[place] IN (SELECT event_seq FROM fresh)) IS TRUE
    ),
    counted AS (
        INSERT INTO counters (tenant, slot, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
        SELECT tenant, $1, count(*), sum(deliveries), 0, 0, sum(skipped), 0, 0, sum(length)
        FROM unnest($3::bigint[], $10::bigint[], $11::bigint[], $26::bigint[]) WITH ORDINALITY
            AS given (tenant, deliveries, skipped, length, place)
        WHERE ((SELECT taken FROM numbers)[place] IN (SELECT event_seq FROM fresh)) IS TRUE
        GROUP BY tenant
        ORDER BY tenant
        ON CONFLICT (tenant, slot) DO UPDATE SET
            events = counters.events + excluded.events,
            owed = counters.owed + excluded.owed,
            skipped = counters.skipped + excluded.skipped,
            stored_bytes = counters.stored_bytes + excluded.stored_bytes
    )
    SELECT (SELECT taken FROM numbers), ARRAY(SELECT event_seq FROM fresh)";

/// Inserts the events at the places `open` whose ids are free, and notes their answers.
async fn insert(
    connection: &Connection,
    (presence, slot): (&Presence, i32),
    events: &[&NewEvent],
    keys: &[Uuid],
    open: &[usize],
    answers: &mut [Option<Answer>],
    stored: &mut Stored,
) -> Result<(), Failure> {
    let mut columns = Columns::default();
    for place in open {
        columns.add(presence, keys[*place], events[*place]);
    }
    let mut shards: Vec<i16> = columns.queue.shards.iter().copied().flatten().collect();
    shards.sort_unstable();
    shards.dedup();
    let Columns { events: new, queue, skipped } = &columns;
    let reasons: Vec<_> = skipped.reasons.iter().map(|reason| text(reason)).collect();
    let row = connection
        .query_one(
            INSERT,
            &[
                &slot,
                &new.keys,
                &new.tenants,
                &new.accepted_at,
                &new.ids,
                &new.topics,
                &new.kinds,
                &new.owed,
                &new.bodies,
                &new.deliveries,
                &new.skipped,
                &queue.places,
                &queue.webhooks,
                &queue.next_at,
                &queue.accepted_at,
                &queue.in_memory,
                &skipped.places,
                &skipped.webhooks,
                &skipped.accepted_at,
                &reasons,
                &presence.node(),
                &queue.shards,
                &shards,
                &new.hops,
                &new.checksums,
                &new.lengths,
            ],
        )
        .await?;
    // `array_agg` of no rows is null.
    let taken: Vec<EventSeq> = row.try_get::<_, Option<_>>(0)?.unwrap_or_default();
    let mut fresh: Vec<EventSeq> = row.try_get(1)?;
    fresh.sort_unstable();
    for (at, (seq, place)) in taken.iter().zip(open).enumerate() {
        if fresh.binary_search(seq).is_ok() {
            answers[*place] = Some(Ok(Accepted::New { seq: *seq }));
            stored.newest = stored.newest.max(*seq);
            let (pending, stored_bytes) = (new.deliveries[at] - new.skipped[at], new.lengths[at]);
            *stored.used.entry(new.tenants[at]).or_default() += Usage { pending, stored_bytes };
        }
    }
    Ok(())
}

/// Looks up the events whose ids are taken. An id and its event are purged together, so an id that is not found is
/// free.
async fn find(
    connection: &Connection,
    events: &[&NewEvent],
    keys: &[Uuid],
    open: &[usize],
    answers: &mut [Option<Answer>],
) -> Result<(), Failure> {
    let wanted: Vec<Uuid> = open.iter().map(|place| keys[*place]).collect();
    let rows = connection
        .query(
            "SELECT event_id.key, event.seq, event.owed,
                 (SELECT count(*) FROM delivery WHERE event_seq = event.seq AND state = 2),
                 event.id, event.topic, event.type, event.body, event.hops, event.checksum
             FROM event_id
                 CROSS JOIN LATERAL (
                     SELECT seq, owed, id, topic, type, body, hops, checksum FROM event
                     WHERE seq = event_id.event_seq OFFSET 0
                 ) AS event
             WHERE event_id.key = ANY($1)",
            &[&wanted],
        )
        .await?;
    let mut found: HashMap<Uuid, (Accepted, ReadBack)> = HashMap::with_capacity(rows.len());
    for row in rows {
        let skipped = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default();
        let share = Share::of(owed::count(row.try_get(2)?) as usize, skipped);
        let duplicate = Accepted::Duplicate { seq: row.try_get(1)?, share };
        found.insert(row.try_get(0)?, (duplicate, event(&row, [4, 5, 6, 7, 8, 9])?));
    }
    for place in open {
        answers[*place] = found.get(&keys[*place]).map(|(duplicate, stored)| {
            // A stored event that is damaged may have been the same.
            let is_same = stored.is_damaged || stored.event.has_same_content(&events[*place].event);
            if is_same { Ok(*duplicate) } else { Err(IdTaken) }
        });
    }
    Ok(())
}
