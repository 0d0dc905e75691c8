//! `postrider serve`: the server, in the foreground.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::oneshot;

use super::output::{NAME, Output, QUIET, STRONG};
use super::signals::Signals;
use crate::config::Environment;
use crate::serve::{ServeError, Started, serve};
use crate::store::OpenError;
use crate::store::seal::MasterKeyError;
use crate::telemetry;

/// What shells report for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider serve --data /var/lib/postrider --allow-private 10.0.0.0/8\n\n\
    Every setting may also stand in postrider.toml or in the environment as POSTRIDER_…; see postrider config.\n\
    POSTRIDER_ADMIN_TOKEN and POSTRIDER_MASTER_KEY (or …_FILE, which names a file) are read from there alone.")]
pub(super) struct Args {
    #[command(flatten)]
    sources: super::config::Sources,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = args.sources.load(environment)?;
    telemetry::init(&config.telemetry_settings(output.notes_in_colour()))?;
    let data = std::path::absolute(config.data_dir()).unwrap_or_else(|_| config.data_dir().to_owned());
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        output.note("stopping: attempts under way are finished first; once more stops at once");
        let _ = stop.send(());
        signals.next().await;
        std::process::exit(EXIT_INTERRUPTED);
    });
    let shutdown = async {
        let _ = stopped.await;
    };
    match serve(config.serve_settings(), |started| announce(started, &data, output), shutdown).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match advice(&error) {
            Some(advice) => anyhow::bail!("{error}\n{advice}"),
            None => Err(error.into()),
        },
    }
}

/// Says where the server listens and, at the first start, the admin token.
fn announce(started: &Started, data: &Path, output: Output) {
    let url = format!("http://{}", started.address);
    let token = started.new_admin_token.as_ref().map(ExposeSecret::expose_secret);
    if output.json {
        // A reader that has gone does not stop a server.
        let _ = output.json(&json!({ "url": url, "data": data, "new_admin_token": token }));
        return;
    }
    let quiet = |text| output.paint_note(QUIET, text);
    output.note(format_args!("\n  {} {}\n", output.paint_note(STRONG, "Postrider"), quiet(env!("CARGO_PKG_VERSION"))));
    output.note(format_args!("  {}  {}", quiet("listening"), output.paint_note(NAME, &url)));
    output.note(format_args!("  {}  {}\n", quiet("data     "), data.display()));
    if let Some(token) = token {
        output.note("  The admin token. It is shown this once; the server keeps only its hash.\n");
        output.note(format_args!("  {}\n", output.paint_note(STRONG, format_args!("export POSTRIDER_TOKEN={token}"))));
    }
}

/// What to do about a server that does not start; `None`: the error says it already.
fn advice(error: &ServeError) -> Option<&'static str> {
    Some(match error {
        ServeError::Listen { .. } => "Stop the program that has the address, or choose another with --listen.",
        ServeError::Open(OpenError::InUse { .. })
        | ServeError::MasterKey(MasterKeyError::Unfinished(OpenError::InUse { .. })) => {
            "Stop the other postrider that runs on this folder, or choose another folder with --data."
        }
        ServeError::Open(OpenError::Path { .. }) | ServeError::MasterKey(MasterKeyError::File { .. }) => {
            "Make the folder writable for this user, or choose another with --data."
        }
        ServeError::Open(OpenError::Corrupt { .. }) => "Nothing was changed.",
        ServeError::Open(OpenError::NewerSchema { .. }) => {
            "Nothing was changed. Start the newer program, or choose another folder with --data."
        }
        ServeError::Open(OpenError::WrongMasterKey { .. }) => {
            "Nothing was changed. Give the key of this folder: restore its key file, or set POSTRIDER_MASTER_KEY."
        }
        _ => return None,
    })
}
