//! A stream of JetStream, which the benchmark makes and deletes.

use std::time::Instant;

use async_nats::jetstream::{self, Context, stream};
use secrecy::{ExposeSecret, SecretString};

use super::run::{Run, TOPIC};
use crate::cli::bench::load::payload;

/// Messages that are published before their acknowledgements are waited for.
const PUBLISHED_TOGETHER: u64 = 256;

pub(super) async fn measure(url: &SecretString, run: Run<'_>) -> anyhow::Result<()> {
    let context = jetstream::new(async_nats::connect(url.expose_secret()).await?);
    // Streams of others may have the subject without it.
    let own = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("postrider-bench-{own}");
    let subject = format!("bench-{own}.{TOPIC}");
    let config = stream::Config { name: name.clone(), subjects: vec![subject.clone()], ..stream::Config::default() };
    context.create_stream(config).await?;
    let measured = with_stream(&context, url, &name, &subject, run).await;
    context.delete_stream(&name).await?;
    measured
}

async fn with_stream(
    context: &Context,
    url: &SecretString,
    stream: &str,
    subject: &str,
    mut run: Run<'_>,
) -> anyhow::Result<()> {
    let servers = toml::Value::from(url.expose_secret());
    let source = format!(
        "kind = \"nats-jetstream\"\nservers = {servers}\nstream = \"{stream}\"\nconsumer = \"bench\"\ntopic = \"{TOPIC}\""
    );
    let node = run.node(&source).await?;

    (run.say)("JetStream: messages");
    run.receiver.reset(1)?;
    let (cpu_before, began_at, messages) = (node.cpu()?, Instant::now(), run.size.messages);
    let mut acknowledgements = Vec::new();
    for n in 0..messages {
        acknowledgements.push(context.publish(subject.to_owned(), payload(n, 0).into()).await?);
        if (n + 1) % PUBLISHED_TOGETHER == 0 || n + 1 == messages {
            for acknowledgement in acknowledgements.drain(..) {
                acknowledgement.await?;
            }
        }
    }
    run.arrived(messages).await?;
    run.throughput("messages of JetStream", began_at.elapsed(), node.cpu()?.saturating_sub(cpu_before));

    (run.say)("JetStream: a message an event");
    run.latency("JetStream", async |_, payload| {
        context.publish(subject.to_owned(), payload.into()).await?.await?;
        Ok(())
    })
    .await
}
