//! `postrider master-key`: the key that seals the keys of webhooks.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::UsageError;
use super::output::Output;
use crate::config::{Config, Environment, RawConfig};
use crate::store::OpenError;
use crate::store::seal::MasterKey;
use crate::store::sqlite::{ChangeKeyError, Changed, change_master_key};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider master-key rotate --data /var/lib/postrider")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Seal everything under a new master key; the server must not run meanwhile
    #[command(after_help = "Example: postrider master-key rotate --data /var/lib/postrider\n\n\
        The new key is made, or taken from POSTRIDER_NEW_MASTER_KEY (or …_FILE, which names a file).\n\
        Where the present key is in the data folder, the new one takes its place there. Where it comes from\n\
        POSTRIDER_MASTER_KEY, the new one has to be given, and to be put there afterwards; no file is written.\n\
        A command that was cut off can be given again. Backups made before still need the old key.")]
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
struct Rotate {
    /// The data folder [default: ./postrider-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Read settings from this file [default: postrider.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let Command::Rotate(rotate) = args.command;
    let flags = RawConfig { data: rotate.data, ..RawConfig::default() };
    let config = Config::load(rotate.config.as_deref(), environment, &flags)?;
    let (folder, current) = (config.data_dir().to_owned(), config.master_key().cloned());
    let new = match environment.new_master_key()? {
        Some(key) => key,
        None if current.is_some() => bail!(UsageError(
            "the present master key comes from the environment, and so must the new one: set POSTRIDER_NEW_MASTER_KEY; \
             `openssl rand -base64 32` makes one"
                .to_owned()
        )),
        None => MasterKey::generate().context("cannot make a key")?,
    };
    let from_environment = current.is_some();
    let change = tokio::task::spawn_blocking(move || change_master_key(&folder, current.as_ref(), &new)).await?;
    let changed = match change {
        Ok(changed) => changed,
        Err(error) => match advice(&error) {
            Some(advice) => bail!("{error}\n{advice}"),
            None => return Err(error.into()),
        },
    };
    let texts = match changed {
        Changed::Resealed(texts) => texts,
        Changed::WasDone => 0,
    };
    if output.json {
        output.json(&json!({ "changed": changed != Changed::WasDone, "resealed": texts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match changed {
        Changed::Resealed(_) => output.line(format_args!("sealed {texts} texts under the new master key"))?,
        Changed::WasDone => output.line("nothing to do: the folder is under the new master key already")?,
    }
    if from_environment {
        output.note("Start the server with the new key as POSTRIDER_MASTER_KEY.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The next step after a failed change; `None`: the error has it already.
fn advice(error: &ChangeKeyError) -> Option<&'static str> {
    Some(match error {
        ChangeKeyError::Open(OpenError::InUse { .. }) => "Nothing was changed. Stop the server first.",
        ChangeKeyError::NoDatabase { .. } => "Name the data folder with --data.",
        ChangeKeyError::Open(OpenError::WrongMasterKey { .. }) => {
            "Nothing was changed. Give the key of this folder: restore its key file, or set POSTRIDER_MASTER_KEY."
        }
        ChangeKeyError::Open(OpenError::Corrupt { .. } | OpenError::NewerSchema { .. }) => "Nothing was changed.",
        _ => return None,
    })
}
