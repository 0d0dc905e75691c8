//! Reads a stream: first what this consumer left, then what comes, and between what other consumers left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use redis::RedisError;
use rustix::system::uname;
use tokio::time::{Instant, interval_at};

use super::connection::{Claimed, Connection, is_without_group, words};
use super::entry::Entry;
use super::{Begin, StreamSettings};
use crate::sources::door::{Door, MAX_BYTES_TOGETHER, MAX_TOGETHER};
use crate::sources::{Message, SourceError, Stop};

/// The id before all others.
const FIRST: &str = "0";
/// The id of what comes from now on.
const NEW: &str = "$";
/// The part of `claim_after` after which entries that wait here are said to be in progress.
const KEEP_PART: u32 = 3;
/// The part of it after which other consumers' entries are looked for again.
const CLAIM_PART: u32 = 2;

pub(super) struct Reading<'a> {
    settings: &'a StreamSettings,
    newest: &'a Mutex<Option<String>>,
    connection: Connection,
    door: &'a Door,
    consumer: String,
    portion: Portion,
}

/// How many entries are asked for. The server knows no bound of bytes, so it follows from those that came.
#[derive(Debug, PartialEq, Eq)]
struct Portion(usize);

impl Portion {
    fn follow(&mut self, entries: usize, bytes: usize) {
        if bytes > MAX_BYTES_TOGETHER {
            self.0 = (entries * MAX_BYTES_TOGETHER / bytes).max(1);
        } else if entries >= self.0 {
            self.0 = (self.0 * 2).min(MAX_TOGETHER);
        }
    }
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        settings: &'a StreamSettings,
        newest: &'a Mutex<Option<String>>,
        connection: Connection,
        door: &'a Door,
    ) -> Self {
        // The name is the same after a restart, and another one on each machine and for each installation.
        let of_node = || format!("{}-{}", uname().nodename().to_string_lossy(), door.engine().instance());
        let consumer = settings.consumer.clone().unwrap_or_else(of_node);
        Self { settings, newest, connection, door, consumer, portion: Portion(1) }
    }

    pub(super) async fn run(mut self, stop: &mut Stop) -> Result<(), SourceError> {
        let StreamSettings { stream, group, .. } = self.settings;
        let is_new = self.ready().await?;
        let (source, consumer) = (self.door.status().name(), &*self.consumer);
        tracing::info!(source, stream, group, consumer, is_new, "reads from Redis");
        self.door.runs();
        self.own(stop).await?;
        let claim_every = self.settings.claim_after / CLAIM_PART;
        let mut claim_at = Instant::now();
        while !stop.is_stopped() {
            if claim_at <= Instant::now() {
                self.claim(stop).await?;
                claim_at = Instant::now() + claim_every;
            }
            let count = self.portion.0;
            let next = self.connection.next(
                self.settings,
                &self.consumer,
                count,
                claim_at.saturating_duration_since(Instant::now()),
            );
            let entries = tokio::select! {
                entries = next => entries.map_err(|error| self.failed(&error))?,
                () = stop.stopped() => break,
            };
            self.door.runs();
            if let Some(newest) = entries.last().map(|entry| entry.id.clone()) {
                self.accept(entries).await?;
                *self.newest.lock() = Some(newest);
            }
        }
        Ok(())
    }

    fn failed(&self, error: &RedisError) -> SourceError {
        let StreamSettings { address, stream, group, .. } = self.settings;
        if error.is_io_error() {
            // With TLS 1.3 a server refuses a client after the client thinks that all is well.
            return SourceError::new(&format!("the connection to {address}"), words(error));
        }
        SourceError::new(&format!("the group {group} of the stream {stream}"), words(error))
    }

    /// Makes the group if it is not there. Returns whether it did.
    async fn ready(&mut self) -> Result<bool, SourceError> {
        match self.connection.own(self.settings, &self.consumer, FIRST, 1).await {
            Ok(_) => return Ok(false),
            Err(error) if is_without_group(&error) => {}
            Err(error) => return Err(self.failed(&error)),
        }
        // A group that somebody deleted goes on where it was.
        let newest = self.newest.lock().clone();
        let from = newest.as_deref().unwrap_or(match self.settings.begin {
            Begin::Oldest => FIRST,
            Begin::New => NEW,
        });
        self.connection.make_group(self.settings, from).await.map_err(|error| self.failed(&error))
    }

    /// Accepts what this consumer got before it was cut off.
    async fn own(&mut self, stop: &Stop) -> Result<(), SourceError> {
        let mut after = FIRST.to_owned();
        while !stop.is_stopped() {
            let own = self.connection.own(self.settings, &self.consumer, &after, self.portion.0).await;
            let entries = own.map_err(|error| self.failed(&error))?;
            let Some(last) = entries.last() else { break };
            after = last.id.clone();
            self.accept(entries).await?;
        }
        Ok(())
    }

    /// Accepts what other consumers left.
    async fn claim(&mut self, stop: &Stop) -> Result<(), SourceError> {
        let mut from = FIRST.to_owned();
        while !stop.is_stopped() {
            let claimed = self.connection.claim(self.settings, &self.consumer, &from, self.portion.0).await;
            let Claimed { next, entries } = claimed.map_err(|error| self.failed(&error))?;
            if !entries.is_empty() {
                self.accept(entries).await?;
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Accepts entries, and acknowledges them.
    async fn accept(&mut self, entries: Vec<Entry>) -> Result<(), SourceError> {
        let count = entries.len();
        let mut ids = Vec::with_capacity(count);
        let mut messages: Vec<Message> = Vec::with_capacity(count);
        for entry in entries {
            if let Some(fields) = entry.fields {
                messages.push(self.settings.body.message(
                    self.door.status().name(),
                    &self.settings.stream,
                    &entry.id,
                    &fields,
                ));
            }
            ids.push(entry.id);
        }
        self.portion.follow(count, messages.iter().map(size).sum());
        let lost = (count - messages.len()) as u64;
        if lost > 0 {
            self.door.status().lost.fetch_add(lost, Ordering::Relaxed);
            tracing::warn!(
                source = self.door.status().name(),
                lost,
                "entries were lost: they were trimmed before they were acknowledged"
            );
        }
        let keep_every = (self.settings.claim_after / KEEP_PART).max(Duration::from_millis(100));
        let mut keep = interval_at(Instant::now() + keep_every, keep_every);
        let mut accepted = std::pin::pin!(self.door.accept(&messages));
        loop {
            tokio::select! {
                accepted = &mut accepted => break drop(accepted?),
                // If it fails, so does the acknowledgement, which says it.
                _ = keep.tick() => drop(self.connection.keep(self.settings, &self.consumer, &ids).await),
            }
        }
        let acknowledged = self.connection.acknowledge(self.settings, &ids).await;
        acknowledged.map_err(|error| self.failed(&error))
    }
}

/// The bytes of a message.
fn size(message: &Message) -> usize {
    message.body.len() + message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portion_follows_the_bytes_that_came() {
        let mut portion = Portion(1);
        for expected in [2, 4, 8, 16, 32, 64, 128, 256, 256] {
            let asked = portion.0;
            portion.follow(asked, 100 * asked);
            assert_eq!(portion, Portion(expected));
        }
        portion.follow(7, 700);
        assert_eq!(portion, Portion(256), "the stream was at its end");
        portion.follow(256, 256 << 20);
        assert_eq!(portion, Portion(4));
        portion.follow(4, 80 << 20);
        assert_eq!(portion, Portion(1));
    }
}
