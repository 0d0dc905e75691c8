//! What a replay job meets next, on a reader. A scan looks at a bounded number of rows and bytes, and says how far it
//! got.

use std::sync::Arc;

use rusqlite::Connection;

use crate::delivery::DeliveryState;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::store::failure::{Failure, corrupt};
use crate::store::owed;
use crate::store::replay::{
    MAX_REPLAY_SCAN_ROWS, MAX_REPLAY_STEP_BYTES, ReplayAction, ReplayRecord, ReplayScan, Selection,
};
use crate::store::sqlite::deliveries::{EventHead, delivery_rows, event_head};
use crate::store::sqlite::events::event_by_seq;
use crate::store::{LiveEvent, StoreError, StoredEvent};
use crate::topic::{Pattern, Topic};
use crate::webhook::{TenantSeq, WebhookSeq};

/// After every delivery of an event.
const LAST_WEBHOOK: WebhookSeq = WebhookSeq(i64::MAX);

pub(in crate::store::sqlite) fn scan(
    connection: &Connection,
    job: &ReplayRecord,
    patterns: &[Pattern],
    max_changes: u32,
) -> Result<ReplayScan, Failure> {
    let includes_unmatched = matches!(job.action, ReplayAction::Replay { include_unmatched: true });
    let has_index = |state: &DeliveryState| {
        matches!(state, DeliveryState::Dead | DeliveryState::Skipped | DeliveryState::Discarded)
    };
    let scan = Scan {
        connection,
        tenant: job.tenant,
        webhook: job.webhook.as_ref().map(|webhook| webhook.seq),
        selection: &job.selection,
        after: job.cursor,
        last: job.events.1,
        patterns: (includes_unmatched && job.webhook.is_some()).then_some(patterns),
        max_changes: max_changes as usize,
        bytes: 0,
        rows: 0,
        found: ReplayScan { found: Vec::new(), unmatched: Vec::new(), cursor: job.cursor, scanned: 0, is_end: false },
    };
    if !includes_unmatched && job.selection.states.iter().all(has_index) { scan.by_state() } else { scan.by_event() }
}

struct Scan<'a> {
    connection: &'a Connection,
    tenant: TenantSeq,
    webhook: Option<WebhookSeq>,
    selection: &'a Selection,
    after: DeliveryKey,
    last: EventSeq,
    /// Set: events that are not owed match, too, if one of these patterns matches.
    patterns: Option<&'a [Pattern]>,
    max_changes: usize,
    /// Of bodies, so far.
    bytes: usize,
    /// Events and deliveries read, so far.
    rows: usize,
    found: ReplayScan,
}

impl Scan<'_> {
    /// Reads rows of the states in the index `delivery_ended`, each state in order, and merges them up to the place
    /// that all reads have reached.
    fn by_state(mut self) -> Result<ReplayScan, Failure> {
        let mut keys = Vec::new();
        let mut frontier = DeliveryKey { event: self.last, webhook: LAST_WEBHOOK };
        self.found.is_end = true;
        for state in &self.selection.states {
            let read = self.read_state(*state)?;
            if read.len() == MAX_REPLAY_SCAN_ROWS as usize
                && let Some(last) = read.last()
            {
                frontier = frontier.min(*last);
                self.found.is_end = false;
            }
            keys.extend(read);
        }
        keys.retain(|key| *key <= frontier);
        keys.sort_unstable();
        for key in keys {
            if self.found.found.len() >= self.max_changes {
                self.found.is_end = false;
                return Ok(self.found);
            }
            self.found.cursor = key;
            if self.webhook.is_some_and(|webhook| webhook != key.webhook) {
                continue;
            }
            let Some(head) = event_head(self.connection, key.event)? else { continue };
            if head.tenant != self.tenant {
                continue;
            }
            self.found.scanned += 1;
            if self.is_selected(&head)? {
                self.found.found.push(key);
            }
        }
        self.found.cursor = frontier;
        Ok(self.found)
    }

    fn read_state(&self, state: DeliveryState) -> rusqlite::Result<Vec<DeliveryKey>> {
        self.connection
            .prepare_cached(
                "SELECT event_seq, webhook_seq FROM delivery INDEXED BY delivery_ended
                 WHERE state = ?1 AND state BETWEEN 1 AND 3 AND (event_seq, webhook_seq) > (?2, ?3) AND event_seq <= ?4
                 ORDER BY event_seq, webhook_seq LIMIT ?5",
            )?
            .query_map((state, self.after.event, self.after.webhook, self.last, MAX_REPLAY_SCAN_ROWS), |row| {
                Ok(DeliveryKey { event: row.get(0)?, webhook: row.get(1)? })
            })?
            .collect()
    }

    /// Event by event: owed lists merged with rows.
    fn by_event(mut self) -> Result<ReplayScan, Failure> {
        let connection = self.connection;
        let mut statement = connection.prepare_cached(
            "SELECT seq, tenant, id, topic, type, accepted_at, owed FROM event
             WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = statement.query((self.after.event, self.last, MAX_REPLAY_SCAN_ROWS))?;
        while self.rows < MAX_REPLAY_SCAN_ROWS as usize {
            let Some(row) = rows.next()? else {
                self.found.is_end = true;
                break;
            };
            let head = EventHead {
                seq: row.get(0)?,
                tenant: row.get(1)?,
                id: row.get(2)?,
                topic: row.get(3)?,
                kind: row.get(4)?,
                accepted_at: row.get(5)?,
                owed: owed::decode(row.get_ref(6)?.as_blob().map_err(corrupt)?),
            };
            self.rows += 1;
            let is_passed = head.seq == self.after.event && self.after.webhook == LAST_WEBHOOK;
            if !is_passed && head.tenant == self.tenant && !self.visit(&head)? {
                return Ok(self.found);
            }
            self.found.cursor = DeliveryKey { event: head.seq, webhook: LAST_WEBHOOK };
        }
        Ok(self.found)
    }

    /// `false`: the event does not fit as a whole.
    fn visit(&mut self, head: &EventHead) -> Result<bool, Failure> {
        let is_selected = self.is_selected(head)?;
        let (Some(webhook), Some(patterns)) = (self.webhook, self.patterns) else {
            return self.visit_owed(head, is_selected);
        };
        let has_room = match head.owed.binary_search(&webhook) {
            _ if !is_selected => true,
            Ok(_) => self.visit_owed(head, true)?,
            Err(_) => self.visit_unmatched(head, patterns)?,
        };
        self.found.scanned += u32::from(has_room);
        Ok(has_room)
    }

    /// Counts deliveries in wanted states also of an event that is not selected, as a scan by state does. If events that
    /// are not owed are wanted too, the caller counts.
    fn visit_owed(&mut self, head: &EventHead, is_selected: bool) -> Result<bool, Failure> {
        let (first, last) = self.webhook.map_or((WebhookSeq(0), LAST_WEBHOOK), |webhook| (webhook, webhook));
        if self.selection.states.is_empty() {
            return Ok(true);
        }
        let rows = delivery_rows(self.connection, head.seq, first, last)?;
        for webhook in head.owed.iter().copied().filter(|webhook| (first..=last).contains(webhook)) {
            let key = DeliveryKey { event: head.seq, webhook };
            if key <= self.after {
                continue;
            }
            self.rows += 1;
            let row = rows.binary_search_by_key(&webhook, |row| row.webhook).ok().map(|at| &rows[at]);
            let state = row.map_or(DeliveryState::Pending, |row| row.state);
            if self.selection.states.contains(&state) {
                if is_selected {
                    if self.found.found.len() + self.found.unmatched.len() >= self.max_changes {
                        return Ok(false);
                    }
                    self.found.found.push(key);
                }
                self.found.scanned += u32::from(self.patterns.is_none());
            }
            self.found.cursor = key;
        }
        Ok(true)
    }

    fn visit_unmatched(&mut self, head: &EventHead, patterns: &[Pattern]) -> Result<bool, Failure> {
        let topic = Topic::parse(&head.topic).map_err(corrupt)?;
        if !patterns.iter().any(|pattern| pattern.matches(&topic)) {
            return Ok(true);
        }
        let is_full = self.found.found.len() + self.found.unmatched.len() >= self.max_changes;
        if is_full || self.bytes >= MAX_REPLAY_STEP_BYTES {
            return Ok(false);
        }
        let event = event_by_seq(self.connection, head.seq)?;
        let StoredEvent { event, is_damaged, .. } =
            event.ok_or_else(|| StoreError::Corrupt("an event vanished".to_owned()))?;
        self.bytes += event.body().len();
        self.found.unmatched.push(Arc::new(LiveEvent { seq: head.seq, event, is_damaged }));
        Ok(true)
    }

    fn is_selected(&self, head: &EventHead) -> Result<bool, Failure> {
        let Selection { topic, since, until, .. } = self.selection;
        if since.is_some_and(|since| head.accepted_at < since) || until.is_some_and(|until| head.accepted_at >= until) {
            return Ok(false);
        }
        let Some(pattern) = topic else { return Ok(true) };
        Ok(pattern.matches(&Topic::parse(&head.topic).map_err(corrupt)?))
    }
}
