//! `postrider serve`: the server, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::oneshot;

use super::output::{NAME, Output, QUIET, STRONG};
use super::signals::{self, Signals};
use crate::config::{Environment, Location};
use crate::serve::{ServeError, ServeSettings, Started, serve};
use crate::store::OpenError;
use crate::store::seal::MasterKeyError;
use crate::telemetry;

/// The exit code of a program that was ended by Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider serve --data /var/lib/postrider --allow-private 10.0.0.0/8\n\n\
    Every setting may also stand in postrider.toml or in the environment as POSTRIDER_…; see postrider config.\n\
    POSTRIDER_ADMIN_TOKEN and POSTRIDER_MASTER_KEY (or …_FILE, which names a file) are read from there alone.")]
pub(super) struct Args {
    #[command(flatten)]
    sources: super::config::Sources,
    /// Begin with a new database where there is a master key and none: otherwise that is taken for a loss, and refused.
    #[arg(long)]
    new_installation: bool,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let Args { sources, new_installation } = args;
    let config = sources.load(environment)?;
    telemetry::init(&config.telemetry_settings(output.notes_in_colour()))?;
    let place = Place {
        data: std::path::absolute(config.data_dir()).unwrap_or_else(|_| config.data_dir().to_owned()),
        store: config.store().clone(),
    };
    let mut signals = Signals::catch().context("cannot catch signals")?;
    signals::outlive_others().context("cannot catch signals")?;
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
    let settings = ServeSettings { is_new_installation: new_installation, ..config.serve_settings() };
    match serve(settings, |started| announce(started, &place, output), shutdown).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match advice(&error, &place.store) {
            Some(advice) => anyhow::bail!("{error}\n{advice}"),
            None => Err(error.into()),
        },
    }
}

/// The place of the server's data.
struct Place {
    data: PathBuf,
    store: Location,
}

/// Prints the server's address and, at the first start, the admin token.
fn announce(started: &Started, place: &Place, output: Output) {
    let Place { data, store } = place;
    let url = format!("http://{}", started.address);
    let token = started.new_admin_token.as_ref().map(ExposeSecret::expose_secret);
    if output.json {
        // A reader that has gone does not stop a server.
        let _ = output.json(&json!({ "url": url, "data": data, "store": store.to_string(), "new_admin_token": token }));
        return;
    }
    let quiet = |text| output.paint_note(QUIET, text);
    output.note(format_args!("\n  {} {}\n", output.paint_note(STRONG, "Postrider"), quiet(env!("CARGO_PKG_VERSION"))));
    output.note(format_args!("  {}  {}", quiet("listening"), output.paint_note(NAME, &url)));
    match store {
        Location::Embedded => output.note(format_args!("  {}  {}\n", quiet("data     "), data.display())),
        Location::Postgres(_) => output.note(format_args!("  {}  {store}\n", quiet("store    "))),
    }
    if let Some(token) = token {
        output.note("  The admin token. It is shown this once; the server keeps only its hash.\n");
        output.note(format_args!("  {}\n", output.paint_note(STRONG, format_args!("export POSTRIDER_TOKEN={token}"))));
    }
}

/// The next step after a failed start; `None`: the error has it already.
fn advice(error: &ServeError, store: &Location) -> Option<&'static str> {
    Some(match error {
        ServeError::Open(OpenError::Database { .. }) => {
            "Nothing was changed. See that the database server runs, that the database is there (createdb makes it), \
             and that --store or POSTRIDER_STORE has the right user and password."
        }
        ServeError::Open(OpenError::UnsafeServer { .. }) => {
            "Nothing was changed. Where nothing is lost by that, as in a test, --allow-unsafe-store allows it."
        }
        ServeError::MasterKey(MasterKeyError::Missing { .. }) | ServeError::Open(OpenError::WrongMasterKey { .. })
            if matches!(store, Location::Postgres(_)) =>
        {
            "Nothing was changed. Every node needs the master key that the first one made: copy master.key from its \
             data folder, or set the same POSTRIDER_MASTER_KEY for all."
        }
        ServeError::Open(OpenError::NewerSchema { .. }) if matches!(store, Location::Postgres(_)) => {
            "Nothing was changed. Start the newer program on this node, too."
        }
        ServeError::Listen { .. } => "Stop the program that has the address, or choose another with --listen.",
        ServeError::Open(OpenError::InUse { .. })
        | ServeError::MasterKey(MasterKeyError::Unfinished(OpenError::InUse { .. })) => {
            "Stop the other postrider that runs on this folder, or choose another folder with --data."
        }
        ServeError::Open(OpenError::Path { .. }) | ServeError::MasterKey(MasterKeyError::File { .. }) => {
            "Make the folder writable for this user, or choose another with --data."
        }
        ServeError::Open(OpenError::Corrupt { .. } | OpenError::SharedSessions { .. }) => "Nothing was changed.",
        ServeError::Open(OpenError::NewerSchema { .. }) => {
            "Nothing was changed. Start the newer program, or choose another folder with --data."
        }
        ServeError::Open(OpenError::WrongMasterKey { .. }) => {
            "Nothing was changed. Give the key of this folder: restore its key file, or set POSTRIDER_MASTER_KEY."
        }
        _ => return None,
    })
}
