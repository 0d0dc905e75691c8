//! What a consumer has given out and nobody has acknowledged, read from its stream. The connection ended over one of these
//! messages, which the client cannot read, and would end over it again whenever it comes.

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode, Message as Received};

use super::stored::{Question, Stored};
use crate::sources::door::{MAX_BYTES_TOGETHER, MAX_TOGETHER};
use crate::sources::{Message, SourceError};

/// The wildcard for all subjects.
const ALL: &str = ">";

pub(super) struct Rescue<'a> {
    pub(super) context: &'a Context,
    pub(super) consumer: &'a PullConsumer,
    /// The name of the source.
    pub(super) source: &'a str,
    pub(super) stream: &'a str,
    pub(super) filters: &'a [String],
}

impl Rescue<'_> {
    /// The next messages from `from` on, as many as are accepted together, and the place after them. None: these were all.
    pub(super) async fn next(&self, from: u64) -> Result<(Vec<(Message, Received)>, u64), SourceError> {
        let info = self.consumer.get_info().await;
        let info = info.map_err(|error| SourceError::new("cannot ask for the consumer", error))?;
        // What was acknowledged meanwhile need not be looked at.
        let (mut next, last) = (from.max(info.ack_floor.stream_sequence + 1), info.delivered.stream_sequence);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while info.num_ack_pending > 0 && next <= last && messages.len() < MAX_TOGETHER && bytes < MAX_BYTES_TOGETHER {
            let Some(stored) = self.stored(next).await?.filter(|stored| stored.sequence() <= last) else { break };
            next = stored.sequence() + 1;
            if !stored.is_wanted(self.filters) {
                continue;
            }
            let read = stored.read(self.source, self.stream, &info.name);
            let (message, received) = read.map_err(|error| SourceError::new("cannot read a stored message", error))?;
            bytes += message.body.len();
            messages.push((message, Received { message: received, context: self.context.clone() }));
        }
        Ok((messages, next))
    }

    /// The first message at a place or after it.
    async fn stored(&self, seq: u64) -> Result<Option<Stored>, SourceError> {
        let next_by_subj = if let [one] = self.filters { one } else { ALL };
        let question = Question { seq, next_by_subj };
        let subject = format!("STREAM.MSG.GET.{}", self.stream);
        match self.context.request(subject, &question).await {
            Ok(Response::Ok(stored)) => Ok(Some(stored)),
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Ok(Response::Err { error }) => Err(SourceError::new("cannot read the stream", error)),
            Err(error) => Err(SourceError::new("cannot read the stream", error)),
        }
    }
}
