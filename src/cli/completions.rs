//! `postrider completions`: a completion script for a shell.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider completions bash > ~/.local/share/bash-completion/completions/postrider")]
pub(super) struct Args {
    shell: Shell,
}

pub(super) fn run(args: &Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "postrider", &mut script);
    let script = String::from_utf8(script).map_err(io::Error::other)?;
    output.verbatim(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
