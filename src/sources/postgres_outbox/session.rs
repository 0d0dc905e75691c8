//! A session with the database of an outbox.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Statement};

use super::rows::Rows;
use super::{After, Outbox};
use crate::delivery::client::Roots;
use crate::event::MAX_EVENT_BYTES;
use crate::sources::SourceError;
use crate::sources::door::MAX_BYTES_TOGETHER;
use crate::store::postgres::{PostgresOptions, text_of};

/// What the database must do within this time, and what it waits for a lock.
const SESSION: &str =
    "SET statement_timeout = '30s'; SET lock_timeout = '5s'; SET application_name = 'postrider outbox'";
/// What is read of the columns beside the payload, in characters. An event has less.
const MAX_COLUMN_CHARS: usize = 2_048;
/// The timeout of one call, the network included.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Session {
    client: Client,
    /// Ready when rows have come, or the connection has ended.
    news: Arc<Notify>,
    first: Statement,
    forget: Statement,
}

/// Refuses a URL that names no database. The error has no part of it, since any part could be the password.
pub(super) fn check(url: &SecretString) -> Result<(), String> {
    let shown = PostgresOptions::new(url.clone()).shown();
    shown.map(drop).map_err(|_| "url: expected postgres://user:password@host:port/database".to_owned())
}

impl Session {
    pub(super) async fn open(url: &SecretString, outbox: &Outbox) -> Result<Self, SourceError> {
        let options = PostgresOptions { roots: Roots::Native, ..PostgresOptions::new(url.clone()) };
        let (config, tls) = options.connector().map_err(|error| SourceError(error.to_string()))?;
        let (client, mut connection) = called("cannot connect to the database", config.connect(tls)).await?;
        let news = Arc::new(Notify::new());
        let of_connection = Arc::clone(&news);
        tokio::spawn(async move {
            let mut messages = pin!(poll_fn(move |context| connection.poll_message(context)));
            while let Some(Ok(message)) = messages.as_mut().await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    of_connection.notify_one();
                }
            }
            // The next call finds out.
            of_connection.notify_one();
        });
        // Comes before the first read, so that nothing is committed unseen in between.
        let listen = format!("{SESSION}; LISTEN \"{}\"", outbox.table.channel());
        called("cannot listen", client.batch_execute(&listen)).await?;
        let encoding = called("cannot read the encoding", client.query_one("SHOW server_encoding", &[])).await?;
        if encoding.try_get(0).is_ok_and(|encoding: &str| encoding == "SQL_ASCII") {
            let reason = "the database has the encoding SQL_ASCII, so that its texts may be no texts: give it UTF8";
            return Err(SourceError(reason.to_owned()));
        }
        let reading = "cannot read the outbox (`postrider source setup` prints what it needs)";
        let first = called(reading, client.prepare(&first_rows(outbox))).await?;
        let forget = called(reading, client.prepare(&forget_rows(outbox))).await?;
        Ok(Self { client, news, first, forget })
    }

    /// The first rows, in order, at most so many and as many as are accepted together. `None`: that took the database too
    /// long, since it must look at all bytes of large payloads.
    pub(super) async fn first_rows(&self, most: u32, source: &str) -> Result<Option<Rows>, SourceError> {
        let reading = "cannot read the outbox";
        let rows = match timeout(CALL_TIMEOUT, self.client.query(&self.first, &[&i64::from(most)])).await {
            Ok(Err(error)) if most > 1 && error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(None),
            result => answer(reading, result)?,
        };
        Rows::of(&rows, source).map(Some).map_err(|error| SourceError::new(reading, text_of(&error)))
    }

    /// Deletes rows, or marks them.
    pub(super) async fn forget(&self, numbers: &[i64]) -> Result<(), SourceError> {
        called("cannot delete from the outbox", self.client.execute(&self.forget, &[&numbers])).await.map(drop)
    }

    pub(super) async fn notified(&self) {
        self.news.notified().await;
    }
}

/// The first rows. Of a payload that is too large only the beginning is read. Rows beyond the bytes that are accepted
/// together wait, but for the first.
fn first_rows(Outbox { table, after }: &Outbox) -> String {
    let open = match after {
        After::Delete => "",
        After::Mark => "WHERE published_at IS NULL",
    };
    let cut = MAX_EVENT_BYTES + 1;
    format!(
        "SELECT seq, left(id, {MAX_COLUMN_CHARS}), left(topic, {MAX_COLUMN_CHARS}), left(type, {MAX_COLUMN_CHARS}),
             left(payload, {cut}), length
         FROM (
             SELECT seq, id, topic, type, payload, length, sum(length) OVER (ORDER BY seq) - length AS before
             FROM (
                 SELECT seq, id::text, topic::text, type::text, payload::text,
                     coalesce(octet_length(payload::text), 0)::bigint AS length
                 FROM {table} {open} ORDER BY seq LIMIT $1
             ) AS first
         ) AS measured
         WHERE before < {MAX_BYTES_TOGETHER} ORDER BY seq"
    )
}

fn forget_rows(Outbox { table, after }: &Outbox) -> String {
    match after {
        After::Delete => format!("DELETE FROM {table} WHERE seq = ANY($1)"),
        After::Mark => format!("UPDATE {table} SET published_at = now() WHERE seq = ANY($1)"),
    }
}

async fn called<T>(
    action: &str,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SourceError> {
    answer(action, timeout(CALL_TIMEOUT, call).await)
}

fn answer<T>(action: &str, result: Result<Result<T, tokio_postgres::Error>, Elapsed>) -> Result<T, SourceError> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(SourceError::new(action, text_of(&error))),
        Err(_) => Err(SourceError::new(action, "the database does not answer")),
    }
}
