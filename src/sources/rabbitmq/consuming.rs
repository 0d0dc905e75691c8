//! Takes messages of a queue. They are acknowledged after their commit; what can be no event is refused for good then, so
//! that a dead-letter exchange gets it, too.

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer, Error};

use super::connection::{answered, words};
use super::window::{Held, Window};
use super::{QueueSettings, message};
use crate::sources::door::Door;
use crate::sources::{Message, SourceError, Stop, Taken};

pub(super) struct Consuming<'a> {
    settings: &'a QueueSettings,
    channel: Channel,
    door: &'a Door,
    window: Window,
    held: Held,
}

/// Why no more is read by a consumer.
#[derive(PartialEq, Eq)]
enum Ended {
    Stopped,
    /// The window has another size. The consumer is cancelled.
    Resized,
}

impl<'a> Consuming<'a> {
    pub(super) fn new(settings: &'a QueueSettings, channel: Channel, door: &'a Door) -> Self {
        Self { settings, channel, door, window: Window::new(settings.prefetch), held: Held::default() }
    }

    pub(super) async fn run(mut self, stop: &mut Stop) -> Result<(), SourceError> {
        let (source, queue) = (self.door.status().name(), &*self.settings.queue);
        let mut consumer = self.consume().await?;
        tracing::info!(source, queue, vhost = self.settings.vhost, "reads from RabbitMQ");
        self.door.runs();
        while self.read(&mut consumer, stop).await? == Ended::Resized {
            tracing::debug!(source, prefetch = self.window.size(), "the server may send another number ahead");
            consumer = self.consume().await?;
        }
        Ok(())
    }

    /// The queue is used as it is: a queue that is not there is an error, which names it.
    async fn consume(&self) -> Result<Consumer, SourceError> {
        let size = self.window.size();
        answered("cannot set the prefetch", self.channel.basic_qos(size, BasicQosOptions::default())).await?;
        let queue = &*self.settings.queue;
        // An empty tag is one that the server chooses.
        let consume =
            self.channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        answered(&format!("cannot read the queue {queue}"), consume).await
    }

    async fn read(&mut self, consumer: &mut Consumer, stop: &mut Stop) -> Result<Ended, SourceError> {
        let mut is_cancelled = false;
        loop {
            if self.held.len() == 0 {
                if is_cancelled {
                    return Ok(Ended::Resized);
                }
                tokio::select! {
                    next = consumer.next() => self.hold(next)?,
                    () = stop.stopped() => return Ok(Ended::Stopped),
                }
            }
            while !is_cancelled && !self.held.is_enough() {
                match consumer.next().now_or_never() {
                    Some(next) => self.hold(next)?,
                    None => break,
                }
            }
            let batch = self.held.batch();
            let count = batch.len();
            is_cancelled |= self.accept(batch, consumer, is_cancelled).await?;
            if stop.is_stopped() {
                return Ok(Ended::Stopped);
            }
            if !is_cancelled && self.window.accepted(count) {
                self.cancel(consumer).await?;
                is_cancelled = true;
            }
        }
    }

    fn hold(&mut self, next: Option<Result<Delivery, Error>>) -> Result<(), SourceError> {
        let queue = &self.settings.queue;
        match next {
            Some(Ok(delivery)) => {
                self.held.push(delivery);
                Ok(())
            }
            Some(Err(error)) => Err(SourceError::new(&format!("the queue {queue}"), words(&error))),
            None => Err(SourceError(format!("the queue {queue} was deleted, or its node is away"))),
        }
    }

    /// Accepts messages, and acknowledges them. Holds what comes meanwhile. Returns whether that was too much, and the
    /// consumer was cancelled.
    async fn accept(
        &mut self,
        mut batch: Vec<Delivery>,
        consumer: &mut Consumer,
        is_cancelled: bool,
    ) -> Result<bool, SourceError> {
        let messages: Vec<Message> = batch.iter_mut().map(|delivery| message(&self.settings.queue, delivery)).collect();
        let door = self.door;
        let mut accepted = std::pin::pin!(door.accept(&messages));
        let mut was_too_much = false;
        let taken = loop {
            tokio::select! {
                taken = &mut accepted => break taken?,
                next = consumer.next(), if !is_cancelled && !was_too_much => {
                    self.hold(next)?;
                    if self.held.is_over() {
                        self.give_back(consumer).await?;
                        was_too_much = true;
                    }
                }
            }
        };
        self.settle(&batch, &taken).await?;
        Ok(was_too_much)
    }

    /// Tells the server what became of messages.
    async fn settle(&self, batch: &[Delivery], taken: &[Taken]) -> Result<(), SourceError> {
        let is_rejected = |taken: &Taken| *taken == Taken::Rejected;
        for (delivery, _) in batch.iter().zip(taken).filter(|(_, taken)| is_rejected(taken)) {
            let options = BasicNackOptions { multiple: false, requeue: false };
            answered("cannot refuse", self.channel.basic_nack(delivery.delivery_tag, options)).await?;
        }
        // All before it are settled by then.
        let last = batch.iter().zip(taken).rfind(|(_, taken)| !is_rejected(taken));
        if let Some((delivery, _)) = last {
            let options = BasicAckOptions { multiple: true };
            answered("cannot acknowledge", self.channel.basic_ack(delivery.delivery_tag, options)).await?;
        }
        Ok(())
    }

    /// No more is sent; what was sent is held.
    async fn cancel(&mut self, consumer: &mut Consumer) -> Result<(), SourceError> {
        let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        answered("cannot cancel the consumer", cancel).await?;
        while let Some(Some(next)) = consumer.next().now_or_never() {
            self.hold(Some(next))?;
        }
        Ok(())
    }

    /// Puts back what is held, and lets the server send less ahead.
    async fn give_back(&mut self, consumer: &mut Consumer) -> Result<(), SourceError> {
        self.window.overflowed(self.held.len(), self.held.bytes());
        self.cancel(consumer).await?;
        for delivery in self.held.take() {
            let options = BasicNackOptions { multiple: false, requeue: true };
            answered("cannot give back", self.channel.basic_nack(delivery.delivery_tag, options)).await?;
        }
        Ok(())
    }
}
