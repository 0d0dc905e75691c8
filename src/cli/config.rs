//! `postrider config`: the settings and where each comes from.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Output};
use crate::config::{Config, Environment, Origin, RawConfig};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: POSTRIDER_LISTEN=0.0.0.0:4665 postrider config --drain-timeout 1m")]
pub(super) struct Args {
    #[command(flatten)]
    sources: Sources,
}

/// Where `serve` and `config` get the settings from, beside the environment.
#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    /// Read settings from this file [default: postrider.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: RawConfig,
}

impl Sources {
    pub(super) fn load(&self, environment: &Environment) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref(), environment, &self.settings)?)
    }
}

pub(super) fn run(args: &Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = args.sources.load(environment)?;
    if output.json {
        output.json(&config.shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = config.shown.iter().map(|setting| {
        let style = if setting.origin == Origin::Default { output::QUIET } else { output::GOOD };
        vec![setting.key.clone(), output::plain(&setting.value), output.paint(style, setting.origin)]
    });
    output.table(&["setting", "value", "origin"], rows.collect())?;
    Ok(ExitCode::SUCCESS)
}
