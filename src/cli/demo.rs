//! `postrider demo`: a server, two receivers and made-up events, in one process and a temporary folder.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use http::StatusCode;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::output::{self, BAD, GOOD, NAME, Output, QUIET, STRONG, WARN};
use super::receiver::{Answer, MAX_WAITING_REQUESTS, Received, Receiver};
use super::remote::Remote;
use super::samples::sample;
use super::signals::Signals;
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::config::{Config, RawConfig};
use crate::serve::{ServeError, serve};
use crate::signing::{self, Secret, StandardKey};

/// The longest wait for deliveries after the last event, retries included.
const FINISH_TIMEOUT: Duration = Duration::from_mins(1);
/// The flaky receiver refuses every third attempt.
const FLAKY_EVERY: u64 = 3;
/// Short delays, so that a retry can be watched, and enough of them that chance does not end a delivery.
const RETRY_SCHEDULE_S: [f64; 10] = [0.4, 0.4, 0.8, 0.8, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0];

const EXPLANATION: [&str; 4] = [
    "  Made-up events of a deception network go in. Each line is one signed attempt",
    "  as the receiver sees it: the webhook, the topic, how long after it was sent",
    "  the event arrived, and whether both signatures are right. What is refused (↻)",
    "  is sent again. Ctrl-C ends it.",
];

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider demo --events 20")]
pub(super) struct Args {
    /// Stop after this many events [default: at Ctrl-C]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Send this many events a second
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
}

/// A receiver's side of a webhook.
struct Hook {
    name: &'static str,
    topics: &'static [&'static str],
    /// Refuses every [`FLAKY_EVERY`]th attempt.
    is_flaky: bool,
    secret: Secret,
    standard_secret: StandardKey,
}

/// An attempt as the receiver sees it.
struct Arrival {
    hook: usize,
    id: String,
    topic: String,
    attempt: u32,
    /// The result of the verification of the signatures.
    verified: Result<(), String>,
    status: StatusCode,
    at: UnixMicros,
    /// Since the event was sent.
    latency: Duration,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let hooks = Arc::new([("siem", &[">"][..], false), ("soar", &["attacker.>", "canary.>"], true)].map(
        |(name, topics, is_flaky)| Hook {
            name,
            topics,
            is_flaky,
            secret: Secret::generate(),
            standard_secret: StandardKey::generate(),
        },
    ));
    let (send, arrivals) = mpsc::channel(MAX_WAITING_REQUESTS);
    let door = Door { hooks: Arc::clone(&hooks), seen: Mutex::default() };
    let answer = move |request: Received| {
        let (arrival, send) = (door.arrival(&request), send.clone());
        async move {
            let Some(arrival) = arrival else { return StatusCode::NOT_FOUND.into() };
            let status = arrival.status;
            // Fails after the end of the demonstration, which is fine.
            let _ = send.send(arrival).await;
            Answer::from(status)
        }
    };
    let receiver = Receiver::start(loopback(), answer).await?;
    let server = Server::start().await?;
    let mut tally = Tally::new(&*hooks, output)?;
    for hook in hooks.iter() {
        create_webhook(&server.remote, hook, receiver.address).await?;
    }
    explain(&server, receiver.address, output)?;

    let watched = watch(&args, &server.remote, arrivals, &mut signals, &mut tally).await;
    let settled = match watched {
        Ok(()) => all_settled(&server.remote).await,
        Err(error) => Err(error),
    };
    let stopped = server.stop().await;
    receiver.stop().await;
    let settled = settled?;
    stopped?;
    tally.summarise(settled)
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// The demonstration's receiver.
struct Door {
    hooks: Arc<[Hook; 2]>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: [u64; 2],
    /// Attempts of deliveries that were not accepted yet.
    attempts: HashMap<(usize, String), u32>,
}

impl Door {
    /// `None`: there is no such path.
    fn arrival(&self, request: &Received) -> Option<Arrival> {
        let at = SystemClock.now();
        let name = request.uri.path().trim_start_matches('/');
        let index = self.hooks.iter().position(|hook| hook.name == name)?;
        let hook = &self.hooks[index];
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("?").to_owned();
        let id = header("x-decnet-event-id");
        let verified = signing::verify_decnet(&hook.secret, &request.headers, &request.body)
            .and_then(|()| {
                let tolerance_s = signing::DEFAULT_TOLERANCE_S;
                signing::verify_standard(&hook.standard_secret, &request.headers, &request.body, at, tolerance_s)
            })
            .map_err(|error| error.to_string());
        let mut seen = self.seen.lock();
        seen.requests[index] += 1;
        let fails = hook.is_flaky && seen.requests[index].is_multiple_of(FLAKY_EVERY);
        let attempt = seen.attempts.entry((index, id.clone())).or_default();
        *attempt += 1;
        let attempt = *attempt;
        let status = match (&verified, fails) {
            (Err(_), _) => StatusCode::UNAUTHORIZED,
            (Ok(()), true) => StatusCode::SERVICE_UNAVAILABLE,
            (Ok(()), false) => StatusCode::OK,
        };
        if status.is_success() {
            seen.attempts.remove(&(index, id.clone()));
        }
        let (topic, latency) = (header("x-decnet-event-topic"), at.since(sent_at(&request.body).unwrap_or(at)));
        Some(Arrival { hook: index, id, topic, attempt, verified, status, at, latency })
    }
}

/// The time at which an event was sent: its `ts`.
fn sent_at(body: &[u8]) -> Option<UnixMicros> {
    let event: serde_json::Value = serde_json::from_slice(body).ok()?;
    let ts: jiff::Timestamp = event["ts"].as_str()?.parse().ok()?;
    Some(UnixMicros(ts.as_microsecond()))
}

/// The demonstration's own server.
struct Server {
    remote: Remote,
    url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
    /// Deleted when the demonstration is over.
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let flags = RawConfig {
            listen: Some(loopback()),
            data: Some(folder.path().to_owned()),
            allow_private: Some(vec![ipnet::IpNet::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST))]),
            ..RawConfig::default()
        };
        let token = SecretString::from(format!("demo_{}", Uuid::new_v4().simple()));
        let mut settings = Config::builtin(&flags)?.serve_settings();
        settings.admin_token = Some(token.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, started) = oneshot::channel();
        let task = tokio::spawn(serve(
            settings,
            move |started| {
                let _ = tell.send(started.address);
            },
            async {
                let _ = stopped.await;
            },
        ));
        let Ok(address) = started.await else {
            task.await??;
            bail!("the server stopped before it listened");
        };
        let url = format!("http://{address}");
        Ok(Self { remote: Remote::new(&url, token)?, url, stop, task, _folder: folder })
    }

    async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        Ok(self.task.await??)
    }
}

async fn create_webhook(remote: &Remote, hook: &Hook, receiver: SocketAddr) -> anyhow::Result<()> {
    let settings = json!({
        "name": hook.name,
        "url": format!("http://{receiver}/{}", hook.name),
        "topic_patterns": hook.topics,
        "secret": hook.secret.expose(),
        "standard_secret": *hook.standard_secret.expose(),
        "retry_schedule": RETRY_SCHEDULE_S,
    });
    remote.post(&["webhooks"], &settings).await?;
    Ok(())
}

fn explain(server: &Server, receiver: SocketAddr, output: Output) -> anyhow::Result<()> {
    if output.json {
        return Ok(output.json(&json!({ "server": server.url, "receiver": format!("http://{receiver}") }))?);
    }
    let name = |text: &str| output.paint(NAME, text);
    output.line(format_args!("\n  {}\n", output.paint(STRONG, "Postrider, demonstrated")))?;
    output.line(format_args!("  A server at {}, its data in a temporary folder.", name(&server.url)))?;
    output.line(format_args!("  A receiver at {} with two webhooks:", name(&format!("http://{receiver}"))))?;
    output.line(format_args!("    {}   takes every event", name("siem")))?;
    output.line(format_args!(
        "    {}   takes attacker.> and canary.>, and refuses every third attempt\n",
        name("soar")
    ))?;
    for line in EXPLANATION {
        output.line(output.paint(QUIET, line))?;
    }
    Ok(output.line("")?)
}

/// Sends events and shows arrivals, until all deliveries have arrived or the time is up.
async fn watch(
    args: &Args,
    remote: &Remote,
    mut arrivals: mpsc::Receiver<Arrival>,
    signals: &mut Signals,
    tally: &mut Tally<'_>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / args.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadline = None;
    while deadline.is_none() || tally.delivered < tally.owed {
        let waiting_until = deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            Some(arrival) = arrivals.recv() => tally.arrived(&arrival)?,
            _ = ticks.tick(), if deadline.is_none() => {
                tally.publish(remote).await?;
                if args.events == Some(tally.accepted) {
                    deadline = Some(Instant::now() + FINISH_TIMEOUT);
                }
            }
            // The first signal ends the stream of events, the second the waiting.
            () = signals.next() => match deadline {
                None => deadline = Some(Instant::now() + FINISH_TIMEOUT),
                Some(_) => break,
            },
            () = tokio::time::sleep_until(waiting_until), if deadline.is_some() => break,
        }
    }
    Ok(())
}

/// Whether the server shows every delivery as delivered. It commits an outcome shortly after the answer.
async fn all_settled(remote: &Remote) -> anyhow::Result<bool> {
    let any = async |state: &str| {
        let page = remote.page("deliveries", &[("state", state.to_owned()), ("limit", "1".to_owned())]).await?;
        anyhow::Ok(page.value["items"].as_array().is_some_and(|items| !items.is_empty()))
    };
    let give_up = Instant::now() + Duration::from_secs(5);
    while any("pending").await? {
        if Instant::now() > give_up {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(!any("dead").await? && !any("skipped").await? && !any("discarded").await?)
}

/// The results so far.
struct Tally<'a> {
    hooks: &'a [Hook],
    output: Output,
    accepted: u64,
    /// The deliveries of the accepted events.
    owed: u64,
    delivered: u64,
    retried: u64,
    unverified: u64,
    /// The time from sending to arrival, of accepted deliveries.
    latencies_us: Histogram<u64>,
}

impl<'a> Tally<'a> {
    fn new(hooks: &'a [Hook], output: Output) -> anyhow::Result<Self> {
        let latencies_us = Histogram::new(3)?;
        Ok(Self { hooks, output, accepted: 0, owed: 0, delivered: 0, retried: 0, unverified: 0, latencies_us })
    }

    async fn publish(&mut self, remote: &Remote) -> anyhow::Result<()> {
        let (sample, ts) = (sample(), SystemClock.now().to_string());
        let event = json!({ "topic": sample.topic, "type": sample.kind, "ts": ts, "payload": sample.payload });
        let receipt = remote.post(&["events"], &event).await?.value;
        self.accepted += 1;
        self.owed += receipt["deliveries"].as_u64().unwrap_or(0);
        Ok(())
    }

    fn arrived(&mut self, arrival: &Arrival) -> anyhow::Result<()> {
        if arrival.verified.is_err() {
            self.unverified += 1;
        } else if arrival.status.is_success() {
            self.delivered += 1;
            self.retried += u64::from(arrival.attempt > 1);
            self.latencies_us.record(u64::try_from(arrival.latency.as_micros())?)?;
        }
        self.show(arrival, arrival.latency.as_secs_f64() * 1_000.0)
    }

    fn show(&self, arrival: &Arrival, latency_ms: f64) -> anyhow::Result<()> {
        let (output, hook) = (self.output, self.hooks[arrival.hook].name);
        if output.json {
            return Ok(output.json(&json!({
                "at": arrival.at.to_string(), "webhook": hook, "topic": arrival.topic, "id": arrival.id,
                "attempt": arrival.attempt, "verified": arrival.verified.is_ok(),
                "status": arrival.status.as_u16(), "latency_ms": latency_ms,
            }))?);
        }
        let end = match (&arrival.verified, arrival.status) {
            (Err(reason), _) => output.paint(BAD, format_args!("✗ not verified: {reason}")),
            (Ok(()), StatusCode::OK) => output.paint(GOOD, "✓ verified"),
            (Ok(()), status) => output.paint(WARN, format_args!("↻ http {}", status.as_u16())),
        };
        let attempt = format!("attempt {}", arrival.attempt);
        let attempt = output.paint(if arrival.attempt > 1 { WARN } else { QUIET }, attempt);
        let latency = if arrival.status.is_success() { output::milliseconds(latency_ms) } else { String::new() };
        output.line(format_args!(
            "  {}  {}  {}  {attempt}  {latency:>7}  {end}",
            output.paint(QUIET, output::time_of_day(arrival.at)),
            output.paint(NAME, format_args!("{hook:<5}")),
            output.paint(STRONG, format_args!("{:<25}", arrival.topic)),
        ))?;
        Ok(())
    }

    /// Prints the summary. A success requires that all events were delivered and verified, and that the server shows
    /// so.
    fn summarise(self, settled: bool) -> anyhow::Result<ExitCode> {
        let output = self.output;
        let complete = settled && self.delivered == self.owed && self.unverified == 0;
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1_000.0;
        let (median_ms, most_ms) = (ms(self.latencies_us.value_at_quantile(0.5)), ms(self.latencies_us.max()));
        if output.json {
            output.json(&json!({
                "accepted": self.accepted, "owed": self.owed, "delivered": self.delivered, "retried": self.retried,
                "unverified": self.unverified, "median_latency_ms": median_ms, "complete": complete,
            }))?;
        } else {
            let style = if complete { GOOD } else { BAD };
            let delivered = output.paint(style, format_args!("{} of {}", self.delivered, self.owed));
            let verified = match self.unverified {
                0 => "every signature verified".to_owned(),
                count => output.paint(BAD, format_args!("{count} signatures not verified")),
            };
            let (median, most) = (output::milliseconds(median_ms), output::milliseconds(most_ms));
            output.line("")?;
            output.fields(&[
                ("  accepted", format!("{} events", self.accepted)),
                ("  delivered", format!("{delivered}, {verified}")),
                ("  retried", format!("{} arrived at a later attempt", self.retried)),
                ("  latency", format!("{median} median, {most} at most, retries included")),
            ])?;
            output.line("")?;
        }
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
