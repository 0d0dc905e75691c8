//! `postrider migrate-store`: everything that a data folder has into a PostgreSQL database.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{HumanCount, ProgressBar};
use serde_json::json;

use super::UsageError;
use super::output::{GOOD, Output, QUIET};
use crate::config::{Config, Environment, Location, RawConfig};
use crate::serve::StoreSettings;
use crate::store::OpenError;
use crate::store::seal::MasterKeyError;
use crate::store::transfer::{Moved, Progress, Step, Task, TransferEnd, TransferError, transfer};

/// The interval of lines about a large table, without a terminal for a bar.
const SAY_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: POSTRIDER_STORE=postgres://postrider@db.example/postrider postrider migrate-store\n\n\
    Stop the server first. The data folder is only read; the database must be empty (createdb makes one).\n\
    A command that was cut off can be given again, and goes on where it was. At the end both sides are compared,\n\
    row by row; before that no node starts on the database."
)]
pub(super) struct Args {
    /// The data folder of a server that is stopped [default: ./postrider-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The database, as in `postgres://user@host/database`; with a password better as `POSTRIDER_STORE`
    #[arg(long, value_name = "URL")]
    store: Option<Location>,
    /// Use a database that can lose what it committed, because its fsync is off
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_unsafe_store: Option<bool>,
    /// Only compare both sides again, after a move and before a node has started on the database
    #[arg(long)]
    verify: bool,
    /// Read settings from this file [default: postrider.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let flags = RawConfig {
        data: args.data,
        store: args.store,
        allow_unsafe_store: args.allow_unsafe_store,
        ..RawConfig::default()
    };
    let settings = Config::load(args.config.as_deref(), environment, &flags)?.serve_settings();
    let StoreSettings::Postgres(options) = settings.store else {
        bail!(UsageError("name the database with POSTRIDER_STORE, POSTRIDER_STORE_FILE or --store".to_owned()));
    };
    let task = if args.verify { Task::Verify } else { Task::Move };
    let from_environment = settings.master_key.is_some();
    let mut speaker = Speaker::new(output);
    let mut report = |progress| speaker.say(progress);
    let moved = transfer(settings.data_dir, settings.master_key, &options, task, &mut report).await;
    speaker.end();
    match moved {
        Ok(moved) => {
            shown(&moved, &options.shown()?, from_environment, output)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => match advice(&error) {
            Some(advice) => bail!("{error}\n{advice}"),
            None => Err(error.into()),
        },
    }
}

fn shown(moved: &Moved, database: &str, from_environment: bool, output: Output) -> anyhow::Result<()> {
    if output.json {
        let (outcome, was_begun) = match moved.outcome {
            TransferEnd::Moved { was_begun } => ("moved", was_begun),
            TransferEnd::WasDone => ("already moved", false),
            TransferEnd::Verified => ("verified", false),
        };
        let table = |(name, digest): &(&str, crate::store::transfer::Digest)| json!({ "table": name, "rows": digest.rows, "checksum": digest.to_string() });
        let tables: Vec<_> = moved.tables.iter().map(table).collect();
        let damaged = moved.damaged_events;
        output.json(&json!({
            "outcome": outcome, "was_begun": was_begun, "store": database, "tables": tables, "damaged_events": damaged,
        }))?;
        return Ok(());
    }
    let rows: u64 = moved.tables.iter().map(|(_, digest)| digest.rows).sum();
    let same = format!("{} rows are the same on both sides", HumanCount(rows));
    match moved.outcome {
        TransferEnd::Moved { .. } => {
            output.line(format_args!("{} to {database}: {same}", output.paint(GOOD, "moved")))?;
        }
        TransferEnd::Verified => output.line(format_args!("{} {database}: {same}", output.paint(GOOD, "verified")))?,
        TransferEnd::WasDone => {
            output.line(format_args!("already moved to {database}; --verify compares both sides again"))?;
            return Ok(());
        }
    }
    let rows = moved.tables.iter().map(|(name, digest)| {
        vec![(*name).to_owned(), HumanCount(digest.rows).to_string(), output.paint(QUIET, digest)]
    });
    output.table(&["table", "rows", "checksum"], rows.collect())?;
    if moved.damaged_events > 0 {
        let count = HumanCount(moved.damaged_events);
        output
            .note(format_args!("\n{count} events are damaged in the data folder, and so here: they will not be sent."));
    }
    output.note(if from_environment {
        "\nNext: start each node with the same POSTRIDER_MASTER_KEY and `postrider serve --store …`."
    } else {
        "\nNext: copy master.key to the data folder of each node, and start it with `postrider serve --store …`."
    });
    output.note(
        "The old data folder is as it was. Start no server on it again: it would deliver what is pending once more.",
    );
    Ok(())
}

/// Shows the progress of a move: a bar in a terminal, lines otherwise, nothing with `--json`.
struct Speaker {
    output: Output,
    /// The present table.
    current: Option<(Step, &'static str, ProgressBar)>,
    said_at: Instant,
}

impl Speaker {
    fn new(output: Output) -> Self {
        Self { output, current: None, said_at: Instant::now() }
    }

    fn say(&mut self, progress: Progress) {
        let Progress { step, name, position, length, rows, is_done } = progress;
        if self.output.json {
            return;
        }
        let (doing, done) = match step {
            Step::Copying => ("copying", "copied"),
            Step::Comparing => ("comparing", "compared"),
        };
        if is_done {
            self.end();
            self.output.note(format_args!("{done} {name}: {} rows", HumanCount(rows)));
            self.said_at = Instant::now();
            return;
        }
        let is_other = self.current.as_ref().is_none_or(|(of, called, _)| (*of, *called) != (step, name));
        if is_other {
            self.end();
        }
        let output = self.output;
        let (_, _, bar) = self.current.get_or_insert_with(|| (step, name, output.progress(Some(length), "keys")));
        bar.set_message(format!("{doing} {name}"));
        bar.set_position(position);
        if bar.is_hidden() && self.said_at.elapsed() >= SAY_EVERY {
            let percent = position.saturating_mul(100) / length.max(1);
            self.output.note(format_args!("{doing} {name}: {percent} %, {} rows", HumanCount(rows)));
            self.said_at = Instant::now();
        }
    }

    fn end(&mut self) {
        if let Some((_, _, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

/// The next step after a failed move; `None`: the error has it already.
fn advice(error: &TransferError) -> Option<&'static str> {
    Some(match error {
        TransferError::Open(OpenError::InUse { .. }) => {
            "Nothing was changed. Stop the server that runs on the folder first: it would go on changing what is copied."
        }
        TransferError::NoDatabase { .. } => "Name the data folder with --data.",
        TransferError::OlderSchema { .. } => {
            "Nothing was changed. Start this program's `postrider serve` on the folder once, and stop it again."
        }
        TransferError::NotEmpty { .. } | TransferError::OtherSource { .. } => {
            "Nothing was changed. Name an empty database; createdb makes one."
        }
        TransferError::SourceChanged { .. } => {
            "What was copied before is out of date. Drop the database, make it again, and start anew."
        }
        TransferError::NodeRunning { .. } => "Nothing was changed. Stop every node first, or name an empty database.",
        TransferError::NotMoved { .. } => "Leave out --verify to move it.",
        TransferError::Different { .. } => {
            "Whoever has changed something on either side has to be stopped. Drop the database, make it again, and start \
             anew; the data folder is as it was."
        }
        TransferError::Open(OpenError::WrongMasterKey { .. }) | TransferError::Key(MasterKeyError::Missing { .. }) => {
            "Nothing was changed. Give the key of this folder: restore its key file, or set POSTRIDER_MASTER_KEY."
        }
        TransferError::Open(OpenError::Database { .. }) => {
            "See that the database server runs, that the database is there (createdb makes it), and that POSTRIDER_STORE \
             or --store has the right user and password."
        }
        TransferError::Open(OpenError::UnsafeServer { .. }) => {
            "Nothing was changed. Where nothing is lost by that, as in a test, --allow-unsafe-store allows it."
        }
        TransferError::Store(_) => "What was copied stays. Give the command again to go on.",
        _ => return None,
    })
}
