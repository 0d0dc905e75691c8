//! Hints between nodes, by `NOTIFY` and `LISTEN`. They are sent beside the transactions that they speak of, after their
//! commit: a notification within one would make it wait for all others that notify.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::Shared;
use super::pool::{CONNECT_TIMEOUT, Connection, Server};
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::store::StoreError;
use crate::store::cluster::{Hint, MAX_HINTS};
use crate::store::failure::Failure;
use crate::webhook::WebhookSeq;

const LISTEN: &str = "LISTEN postrider";
/// The longest wait of a hint for others, to go with it.
const GATHER: Duration = Duration::from_millis(2);
/// PostgreSQL's limit is 8,000 bytes.
const MAX_PAYLOAD_BYTES: usize = 7_000;
/// The pause before a listener connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The channel to the task that sends.
pub(super) struct Hints(mpsc::Sender<Hint>);

impl Hints {
    /// Returns the receiver for the task, too.
    pub(super) fn new() -> (Self, mpsc::Receiver<Hint>) {
        let (sender, hints) = mpsc::channel(MAX_HINTS);
        (Self(sender), hints)
    }

    /// Drops the hint if too many wait.
    pub(super) fn send(&self, hint: Hint) {
        let _ = self.0.try_send(hint);
    }
}

/// Sends hints until the store is dropped.
pub(super) async fn send_all(shared: Weak<Shared>, mut hints: mpsc::Receiver<Hint>) {
    let mut received = Vec::with_capacity(MAX_HINTS);
    while hints.recv_many(&mut received, MAX_HINTS).await > 0 {
        tokio::time::sleep(GATHER).await;
        while let Ok(hint) = hints.try_recv() {
            received.push(hint);
        }
        let Some(shared) = shared.upgrade() else { return };
        let distinct: BTreeSet<Hint> = received.drain(..).collect();
        for payload in payloads(distinct) {
            if let Err(error) = send(&shared, &payload).await {
                tracing::debug!(%error, "a hint was not sent");
            }
        }
    }
}

async fn send(shared: &Shared, payload: &str) -> Result<(), StoreError> {
    Ok(notify_all(&shared.control.get().await?, payload).await?)
}

/// Sends a hint at once.
pub(super) async fn notify(connection: &Connection, hint: Hint) -> Result<(), Failure> {
    notify_all(connection, &encode(hint)).await
}

async fn notify_all(connection: &Connection, payload: &str) -> Result<(), Failure> {
    connection.execute("SELECT pg_notify('postrider', $1)", &[&payload]).await.map(drop)
}

fn payloads(hints: impl IntoIterator<Item = Hint>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for hint in hints {
        let text = encode(hint);
        match payloads.last_mut().filter(|payload| payload.len() + text.len() < MAX_PAYLOAD_BYTES) {
            Some(payload) => {
                payload.push(' ');
                payload.push_str(&text);
            }
            None => payloads.push(text),
        }
    }
    payloads
}

fn encode(hint: Hint) -> String {
    match hint {
        Hint::Due(webhook) => format!("due:{}", webhook.0),
        Hint::Wished(webhook) => format!("wished:{}", webhook.0),
        Hint::Withdrawn(key) => format!("withdrawn:{}.{}", key.event.0, key.webhook.0),
        Hint::Changed => "changed".to_owned(),
        Hint::Shards => "shards".to_owned(),
    }
}

/// `None`: the hint is of a newer version, or of another program.
fn decode(text: &str) -> Option<Hint> {
    match text.split_once(':') {
        None if text == "changed" => Some(Hint::Changed),
        None if text == "shards" => Some(Hint::Shards),
        Some(("due", webhook)) => webhook.parse().ok().map(|seq| Hint::Due(WebhookSeq(seq))),
        Some(("wished", webhook)) => webhook.parse().ok().map(|seq| Hint::Wished(WebhookSeq(seq))),
        Some(("withdrawn", key)) => {
            let (event, webhook) = key.split_once('.')?;
            let (event, webhook) = (EventSeq(event.parse().ok()?), WebhookSeq(webhook.parse().ok()?));
            Some(Hint::Withdrawn(DeliveryKey { event, webhook }))
        }
        _ => None,
    }
}

/// Listens until the receiver is dropped, on a connection of its own, which is made again when it breaks.
pub(super) fn listen(server: Server) -> mpsc::Receiver<Hint> {
    let (sender, hints) = mpsc::channel(MAX_HINTS);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(error) = listen_once(&server, &sender).await {
                tracing::debug!(%error, "hints of other nodes do not arrive; polling finds what they speak of");
            }
            let _ = tokio::time::timeout(RECONNECT_DELAY, sender.closed()).await;
        }
    });
    hints
}

async fn listen_once(server: &Server, sender: &mpsc::Sender<Hint>) -> Result<(), StoreError> {
    let connect = server.config.connect(server.tls.clone());
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
    let unavailable = |error: &dyn std::fmt::Display| StoreError::Unavailable(error.to_string());
    let (client, mut connection) =
        connected.map_err(|error| unavailable(&error))?.map_err(|error| unavailable(&error))?;
    let mut begin = pin!(client.batch_execute(LISTEN));
    let mut is_listening = false;
    loop {
        tokio::select! {
            result = &mut begin, if !is_listening => {
                result.map_err(|error| unavailable(&error))?;
                is_listening = true;
                // Hints from before the connection are lost.
                let _ = sender.try_send(Hint::Changed);
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    for hint in notification.payload().split(' ').filter_map(decode) {
                        let _ = sender.try_send(hint);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(unavailable(&error)),
                None => return Ok(()),
            },
            () = sender.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_come_back_and_fit_into_notifications() {
        let key = DeliveryKey { event: EventSeq(i64::MAX), webhook: WebhookSeq(7) };
        let some = [Hint::Withdrawn(key), Hint::Wished(WebhookSeq(7)), Hint::Changed, Hint::Shards];
        let hints: Vec<Hint> = (0..5_000).map(|seq| Hint::Due(WebhookSeq(seq))).chain(some).collect();
        let payloads = payloads(hints.iter().copied());
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD_BYTES));
        let decoded: Vec<Hint> =
            payloads.iter().flat_map(|payload| payload.split(' ')).map(|text| decode(text).unwrap()).collect();
        assert_eq!(decoded, hints);
        for other in ["", "due:", "due:x", "withdrawn:1", "withdrawn:1.x", "wished:", "later", "changed:1"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
