//! The receiver of a benchmark: a process of its own that answers 200 and counts, so that its CPU is
//! nobody else's. It is asked over its standard input and answers on its standard output.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::super::output::Output;
use super::super::receiver::Receiver;
use crate::clock::{Clock, SystemClock};

/// The arrivals since the last reset.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Arrived {
    /// Different deliveries.
    pub count: u64,
    /// Deliveries that had arrived before.
    pub repeated: u64,
    /// From the intended time of sending, in microseconds.
    pub p50_us: u64,
    pub p99_us: u64,
}

struct Tally {
    seen: Vec<u64>,
    arrived: Arrived,
    latency_us: Histogram<u64>,
    /// Webhooks that get each event: event n at webhook w is delivery n × webhooks + w.
    webhooks: u64,
}

impl Tally {
    fn new(webhooks: u64) -> anyhow::Result<Self> {
        Ok(Self { seen: Vec::new(), arrived: Arrived::default(), latency_us: histogram()?, webhooks })
    }

    fn count(&mut self, event: u64, webhook: u64, latency_us: u64) {
        let delivery = event * self.webhooks + webhook;
        let (word, bit) = ((delivery / 64) as usize, 1 << (delivery % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.arrived.repeated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.arrived.count += 1;
        self.latency_us.saturating_record(latency_us);
    }

    fn report(&self) -> Arrived {
        Arrived {
            p50_us: self.latency_us.value_at_quantile(0.5),
            p99_us: self.latency_us.value_at_quantile(0.99),
            ..self.arrived
        }
    }
}

/// Microseconds up to a minute, three digits.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// The receiver's process: runs until its standard input ends.
pub(super) async fn run(output: Output) -> anyhow::Result<()> {
    let tally = Arc::new(Mutex::new(Tally::new(1)?));
    let counting = Arc::clone(&tally);
    let receiver = Receiver::start(SocketAddr::from(([127, 0, 0, 1], 0)), move |request| {
        let webhook = request.uri.path().rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(0);
        if let (Some(event), Some(sent_us)) = (number(&request.body, b"\"n\":"), number(&request.body, b"\"sent_us\":"))
        {
            let now_us = SystemClock.now().0.unsigned_abs();
            counting.lock().count(event, webhook, now_us.saturating_sub(sent_us));
        }
        std::future::ready(StatusCode::OK.into())
    })
    .await?;
    output.line(receiver.address)?;
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        for line in std::io::stdin().lines() {
            let line = line?;
            if let Some(webhooks) = line.strip_prefix("reset ") {
                *tally.lock() = Tally::new(webhooks.parse()?)?;
            }
            // The count is asked for often, so it comes without the percentiles, which take a walk over the histogram.
            let tally = tally.lock();
            output.json(&if line == "report" { tally.report() } else { tally.arrived })?;
        }
        Ok(())
    })
    .await??;
    receiver.stop().await;
    Ok(())
}

/// The digits after `name`.
fn number(body: &[u8], name: &[u8]) -> Option<u64> {
    let start = memchr::memmem::find(body, name)? + name.len();
    let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// The benchmark's handle to a receiver's process.
pub(super) struct ReceiverProcess {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

impl ReceiverProcess {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "--receive"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the receiver")?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the receiver has no pipes");
        };
        let mut answers = BufReader::new(answers);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the receiver said {line:?}, no address"))?;
        Ok(Self { child, ask, answers, address })
    }

    /// Forgets what has arrived. Every event goes to `webhooks` webhooks from now on.
    pub(super) fn reset(&mut self, webhooks: u64) -> anyhow::Result<()> {
        self.say(&format!("reset {webhooks}")).map(|_| ())
    }

    /// The counts alone.
    pub(super) fn arrived(&mut self) -> anyhow::Result<Arrived> {
        self.say("count")
    }

    /// Counts and latencies.
    pub(super) fn report(&mut self) -> anyhow::Result<Arrived> {
        self.say("report")
    }

    /// The URL of the webhook number `webhook`.
    pub(super) fn url(&self, webhook: u64) -> String {
        format!("http://{}/{webhook}", self.address)
    }

    fn say(&mut self, word: &str) -> anyhow::Result<Arrived> {
        writeln!(self.ask, "{word}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the receiver has ended")
    }
}

impl Drop for ReceiverProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
