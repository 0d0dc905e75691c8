//! Requests for messages to a pull consumer, one after the other, and what the server answers.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message as Answer, StatusCode, Subject, Subscriber};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::sources::SourceError;
use crate::sources::door::{MAX_BYTES_TOGETHER, MAX_TOGETHER};

/// The time for which a request waits at the server for the next message.
const WAIT: Duration = Duration::from_secs(30);
/// Between the server's words that it still waits. A consumer that is gone says nothing, and older servers do not tell.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A consumer that says nothing for so long is given up.
const MAX_SILENCE: Duration = Duration::from_secs(6);
/// What a message may have beside its body and its headers: its subjects.
const SUBJECT_BYTES: usize = 8 * 1024;

/// How subjects of acknowledgements begin.
const ACK_PREFIX: &str = "$JS.ACK.";

pub(super) struct Pull {
    consumer: PullConsumer,
    context: async_nats::jetstream::Context,
    /// Before the number of a request: the subject of its answers.
    inbox: String,
    /// The number of the last request.
    number: u64,
    answers: Subscriber,
    /// For all that is there.
    now: BatchConfig,
    /// For the next message.
    next: BatchConfig,
}

/// What an answer that is no message means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Status {
    /// The request is over, and all is well.
    End,
    /// It is not over.
    StillThere,
    Failed(String),
}

impl Pull {
    pub(super) async fn new(
        client: &Client,
        context: async_nats::jetstream::Context,
        consumer: PullConsumer,
    ) -> Result<Self, SourceError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| SourceError::new("cannot subscribe to the consumer's answers", error))?;
        let (now, next) = requests(&consumer.cached_info().config, client.max_payload());
        Ok(Self { consumer, context, inbox, number: 0, answers, now, next })
    }

    /// What is there, as much as is accepted together.
    pub(super) async fn there(&mut self) -> Result<Vec<Message>, SourceError> {
        self.request(self.now.clone()).await
    }

    /// The next message. Waits for it, and returns without one after a time.
    pub(super) async fn next(&mut self) -> Result<Vec<Message>, SourceError> {
        self.request(self.next.clone()).await
    }

    async fn request(&mut self, request: BatchConfig) -> Result<Vec<Message>, SourceError> {
        let most = request.batch;
        self.number += 1;
        let inbox = Subject::from(format!("{}.{}", self.inbox, self.number));
        let asked = self.consumer.request_batch(request, inbox.clone()).await;
        asked.map_err(|error| SourceError::new("cannot ask the consumer", error))?;
        let mut messages = Vec::new();
        while messages.len() < most {
            let answer = match timeout(MAX_SILENCE, self.answers.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(SourceError("the connection to the server ended".to_owned())),
                Err(_) if messages.is_empty() => return Err(SourceError("the consumer does not answer".to_owned())),
                Err(_) => break,
            };
            match status(&answer) {
                None => messages.push(Message { message: answer, context: self.context.clone() }),
                // A word about an earlier request, which was over with its last message: newer servers say so.
                Some(_) if answer.subject != inbox => {}
                Some(Status::StillThere) => {}
                // What came is accepted first; the next request fails in the same way.
                Some(Status::Failed(reason)) if messages.is_empty() => return Err(SourceError(reason)),
                Some(Status::End | Status::Failed(_)) => break,
            }
        }
        Ok(messages)
    }
}

/// The two requests, within what the consumer allows. `max_payload`: the largest message that the server takes.
fn requests(consumer: &async_nats::jetstream::consumer::Config, max_payload: usize) -> (BatchConfig, BatchConfig) {
    let limit = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // A single message must fit, else it would stay at the consumer's head.
    let bytes = MAX_BYTES_TOGETHER.max(max_payload.saturating_add(SUBJECT_BYTES)).min(limit(consumer.max_bytes));
    let batch = MAX_TOGETHER.min(limit(consumer.max_batch));
    let expires = if consumer.max_expires.is_zero() { WAIT } else { WAIT.min(consumer.max_expires) };
    let now = BatchConfig { batch, no_wait: true, max_bytes: bytes, ..BatchConfig::default() };
    // Without a bound of bytes, so that a message that is larger than the bound comes, too.
    // The server wants an interval that fits into the request twice.
    let idle_heartbeat = HEARTBEAT.min(expires / 2);
    let next = BatchConfig { batch: 1, expires: Some(expires), idle_heartbeat, ..BatchConfig::default() };
    (now, next)
}

/// `None`: it is a message. A publisher may have given it a status; what is to be acknowledged is a message all the same.
fn status(answer: &Answer) -> Option<Status> {
    let status = answer.status?;
    if answer.reply.as_ref().is_some_and(|reply| reply.starts_with(ACK_PREFIX)) {
        return None;
    }
    let text = answer.description.as_deref().unwrap_or_default();
    let is = |part: &str| text.to_ascii_lowercase().contains(part);
    Some(match status {
        StatusCode::OK => return None,
        StatusCode::IDLE_HEARTBEAT => Status::StillThere,
        StatusCode::NOT_FOUND | StatusCode::TIMEOUT => Status::End,
        StatusCode::REQUEST_TERMINATED if is("maxbytes") || is("maxackpending") => Status::End,
        StatusCode::NO_RESPONDERS => Status::Failed("there is no such consumer, or its server is away".to_owned()),
        _ => Status::Failed(format!("the server ended the request: {text} ({status})")),
    })
}
