//! The outbox of an application, in a database of its own.

use std::time::Instant;

use secrecy::ExposeSecret;

use super::run::{Run, TOPIC};
use crate::cli::bench::database::Database;
use crate::cli::bench::load::payload;
use crate::sources::postgres_outbox::Outbox;

pub(super) async fn measure(database: &Database, mut run: Run<'_>) -> anyhow::Result<()> {
    let user = database.user().await?;
    database.execute(&Outbox::default().setup(&user, &user)).await?;
    let url = toml::Value::from(database.url().expose_secret());
    let node = run.node(&format!("kind = \"postgres-outbox\"\nurl = {url}")).await?;

    (run.say)("outbox: rows of one transaction");
    run.receiver.reset(1)?;
    let (cpu_before, messages) = (node.cpu()?, run.size.messages);
    let rows = format!(
        "INSERT INTO postrider.outbox (id, topic, payload)
         SELECT 'row-' || n, '{TOPIC}', replace({}, '4242', n::text)::json FROM generate_series(0, {messages} - 1) AS n",
        literal(&payload(4242, 0))
    );
    database.execute(&rows).await?;
    let began_at = Instant::now();
    run.arrived(messages).await?;
    run.throughput("outbox rows of one transaction", began_at.elapsed(), node.cpu()?.saturating_sub(cpu_before));

    (run.say)("outbox: a transaction an event");
    run.latency("outbox", async |_, payload| {
        database.execute(&format!("SELECT postrider.publish('{TOPIC}', {})", literal(&payload))).await
    })
    .await
}

/// A text of SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
