//! `postrider bus`: the bus of DECNET, as its server and as a client that shows what flows.

mod listen;
mod publish;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use tokio::net::UnixStream;

use super::output::{NAME, Output};
use super::signals;
use crate::bus::claim::Claimed;
use crate::bus::server::{self, BusSettings, MIN_HEARTBEAT};
use crate::bus::socket;
use crate::clock::SystemClock;
use crate::config::{Environment, parse_span};
use crate::telemetry::{self, TelemetrySettings};

/// The group of DECNET's processes.
const DECNET_GROUP: &str = "decnet";
/// Where the system's groups are.
const GROUPS: &str = "/etc/group";
/// What clients of the command line call themselves.
const CLIENT_NAME: &str = "postrider";

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  postrider bus --socket /run/decnet/bus.sock --group decnet\n  \
    postrider bus listen 'attacker.>'\n  postrider bus publish attacker.observed '{\"ip\": \"198.51.100.7\"}'\n\n\
    The socket is, in this order: --socket; the one that DECNET_BUS_SOCKET names; /run/decnet/bus.sock if its folder is \
    writable (clients: if it is there); ~/.decnet/bus.sock. Its mode is 0660: who may connect may read and publish all.\n\
    An event is for those who are connected; nothing is kept. A client that reads too slowly loses its oldest events.\n\
    SIGTERM and Ctrl-C stop it."
)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Let this group connect: a name or a number [default: decnet, if it exists]
    #[arg(long)]
    group: Option<String>,
    /// Say this often on system.bus.health that the bus is there; a number alone is seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_heartbeat, default_value = "10s")]
    heartbeat: Duration,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The socket of the bus
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish an event on the bus
    Publish(publish::Args),
    /// Show the events that come over the bus
    Listen(listen::Args),
}

fn parse_heartbeat(text: &str) -> Result<Duration, String> {
    let span = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_span(text)?,
    };
    if span < MIN_HEARTBEAT { Err(format!("the least is {} ms", MIN_HEARTBEAT.as_millis())) } else { Ok(span) }
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Publish(args)) => publish::run(args, output, environment).await,
        Some(Command::Listen(args)) => listen::run(args, output, environment).await,
        None => serve(args, output, environment).await,
    }
}

async fn serve(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let variable = environment.decnet_bus_socket().map(OsStr::new);
    let home = environment.home();
    let path = std::path::absolute(socket::to_serve(args.place.socket.as_deref(), variable, home))?;
    telemetry::init(&TelemetrySettings { colour: output.notes_in_colour(), ..TelemetrySettings::default() })?;
    let stop = signals::stop_signal().context("cannot catch signals")?;
    signals::outlive_others().context("cannot catch signals")?;

    // A system without this file has no groups by name.
    let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
    let wanted = args.group.as_deref().unwrap_or(DECNET_GROUP);
    let group = socket::group_number(wanted, &groups);
    if group.is_none() && args.group.is_some() {
        tracing::warn!(group = wanted, "there is no such group; the socket keeps the group of this process");
    }
    let claimed = Claimed::claim(&path, group, home).await?;
    if let Some(error) = claimed.group_error() {
        tracing::warn!(group = wanted, %error, "the socket keeps the group of this process");
    }
    let has_group = group.is_some() && claimed.group_error().is_none();
    announce(claimed.path(), has_group.then_some(wanted), output);
    server::serve(claimed, BusSettings { heartbeat: args.heartbeat, clock: Arc::new(SystemClock) }, stop).await;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has gone does not stop a server.
fn announce(path: &Path, group: Option<&str>, output: Output) {
    if output.json {
        let _ = output.json(&json!({ "socket": path, "group": group }));
        return;
    }
    let whose = group.map(|group| format!(", for the group {group}")).unwrap_or_default();
    output.note(format_args!("serving the bus at {}{whose}", output.paint_note(NAME, path.display())));
}

/// Connects a client. Also returns where.
async fn connect(place: &Place, environment: &Environment) -> anyhow::Result<(UnixStream, PathBuf)> {
    let variable = environment.decnet_bus_socket().map(OsStr::new);
    let path = socket::find(place.socket.as_deref(), variable, environment.home());
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok((stream, path)),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; start the bus with postrider bus, or name its socket with --socket"
                }
                io::ErrorKind::PermissionDenied => "; its group may connect",
                _ => "",
            };
            anyhow::bail!("cannot connect to the bus at {}: {error}{advice}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_a_span_or_seconds() {
        assert_eq!(parse_heartbeat("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_heartbeat("500ms"), Ok(Duration::from_millis(500)));
        for text in ["0", "1ms", "soon", "-1"] {
            assert!(parse_heartbeat(text).is_err(), "{text}");
        }
    }
}
