//! The command line: one file a command, and what they share.

mod answer;
mod audit;
mod bench;
mod bus;
mod compact;
mod completions;
mod config;
mod delivery;
mod demo;
mod event;
mod exchange;
mod filter;
mod import;
mod inlet;
mod keys;
mod listen;
mod listing;
mod master_key;
mod migrate_store;
mod node;
mod openapi;
mod output;
mod receiver;
mod remote;
mod replay;
mod samples;
mod serve;
mod shape;
mod sign;
mod signals;
mod source;
mod stats;
mod tenant;
mod token;
mod verify;
mod webhook;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Environment};
use output::Output;

/// Delivers events to other people's servers as signed HTTP POSTs (webhooks), durably.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, arg_required_else_help = true)]
#[command(after_help = "Try it: postrider demo\nStart:  postrider serve, then postrider webhook create --help")]
pub struct Cli {
    /// Answer in JSON: one document, or one a line for streams
    #[arg(long, global = true, help_heading = "General")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Args),
    /// Watch a server, two receivers and made-up events work together
    Demo(demo::Args),
    /// Receive webhooks on this machine, verify and print them
    Listen(listen::Args),
    /// Sign a body as a delivery is signed, to try a receiver
    Sign(sign::Args),
    /// Say whether a request's signatures match, and why not
    Verify(verify::Args),
    /// Manage webhooks: who gets which events
    Webhook(Box<webhook::Args>),
    /// Send events and look at them
    Event(event::Args),
    /// Look at deliveries, retry and discard them
    Delivery(delivery::Args),
    /// See what happened over time: how much, how well, how fast
    Stats(stats::Args),
    /// See what receivers can get, and preview it
    Shape(shape::Args),
    /// Try a filter on an event
    Filter(filter::Args),
    /// Deliver many events again, and watch the jobs that do
    Replay(replay::Args),
    /// See where events come from by themselves, and what was rejected
    Source(source::Args),
    /// Manage inlets: where other senders' webhooks come in
    Inlet(Box<inlet::Args>),
    /// Manage access tokens
    Token(token::Args),
    /// Manage tenants: who has webhooks, events and tokens here, and how many
    Tenant(tenant::Args),
    /// See the servers that share a database, and drain one
    Node(node::Args),
    /// See who did what
    Audit(audit::Args),
    /// Change the key that seals the keys of webhooks
    MasterKey(master_key::Args),
    /// Take over the webhooks of another sender, so that no receiver notices
    Import(import::Args),
    /// Move everything that a stopped server has into a PostgreSQL database
    MigrateStore(migrate_store::Args),
    /// Serve the bus of DECNET, and see what flows over it
    Bus(bus::Args),
    /// Print the server's settings and where each comes from
    Config(config::Args),
    /// Print the API's description for programs, an `openapi.json`
    Openapi(openapi::Args),
    /// Give the free space of a stopped server's database back
    Compact(compact::Args),
    /// Measure what this machine does
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// A command line that parses, but has no valid meaning; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Parses `arguments`, the program's name first, and runs the command.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // The exit code does not depend on the reader of the output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let environment = Environment::read();
    let output = Output::new(cli.json, &environment);
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli.command, output, environment)));
    result.unwrap_or_else(|error| report(&error, output))
}

async fn dispatch(command: Command, output: Output, environment: Environment) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args, output, &environment).await,
        Command::Demo(args) => demo::run(args, output).await,
        Command::Listen(args) => listen::run(args, output).await,
        Command::Sign(args) => sign::run(args, output).await,
        Command::Verify(args) => verify::run(args, output).await,
        Command::Webhook(args) => webhook::run(*args, output).await,
        Command::Event(args) => event::run(args, output).await,
        Command::Delivery(args) => delivery::run(args, output).await,
        Command::Stats(args) => stats::run(args, output).await,
        Command::Shape(args) => shape::run(args, output).await,
        Command::Filter(args) => filter::run(args, output).await,
        Command::Replay(args) => replay::run(args, output).await,
        Command::Source(args) => source::run(args, output, &environment).await,
        Command::Inlet(args) => inlet::run(*args, output).await,
        Command::Token(args) => token::run(args, output).await,
        Command::Tenant(args) => tenant::run(args, output).await,
        Command::Node(args) => node::run(args, output).await,
        Command::Audit(args) => audit::run(args, output).await,
        Command::MasterKey(args) => master_key::run(args, output, &environment).await,
        Command::Import(args) => import::run(args, output).await,
        Command::MigrateStore(args) => migrate_store::run(args, output, &environment).await,
        Command::Bus(args) => bus::run(args, output, &environment).await,
        Command::Config(args) => config::run(&args, output, &environment),
        Command::Openapi(args) => openapi::run(&args, output),
        Command::Compact(args) => compact::run(args, output, &environment).await,
        Command::Bench(args) => bench::run(args, output).await,
        Command::Completions(args) => completions::run(&args, output),
    }
}

/// Prints the error. The exit code is 2 if the user's input was the cause.
fn report(error: &anyhow::Error, output: Output) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let text = output::visible_lines(&format!("{error:#}"));
    output.note(format_args!("{} {text}", output.paint_note(output::BAD, "error:")));
    let is_usage = error.is::<UsageError>() || error.is::<ConfigError>();
    ExitCode::from(if is_usage { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_in_a_log_has_no_secrets() {
        let secret = "not-to-be-shown-anywhere";
        for command in [
            "event list --token",
            "inlet create --name i --topic t --signature github --secret",
            "inlet update i --secret",
            "listen --secret",
            "listen --standard-secret",
            "sign --private-key",
            "verify --secret",
            "webhook rotate-secret w --standard-secret",
            "webhook create --name w --url https://w.example --secret",
            "webhook update w --standard-secret",
        ] {
            let words = ["postrider"].into_iter().chain(command.split(' ')).chain([secret]);
            let cli = Cli::try_parse_from(words).unwrap();
            assert!(!format!("{cli:?}").contains(secret), "{command}: {cli:?}");
        }
    }
}
