//! Programs around the vendors' own libraries: cases in, an answer for each out.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The folder that `scripts/test --vendors` fills: `npm/node_modules` and `python/bin/python`.
const VENDORS: &str = "POSTRIDER_VENDORS";

/// Gives all cases to the program of this name, in a language.
#[expect(clippy::disallowed_methods, reason = "where programs are is for the environment to say")]
pub(crate) fn run(program: &str, language: &str, cases: &[Value]) -> Vec<Value> {
    let vendors = PathBuf::from(std::env::var_os(VENDORS).expect("scripts/test --vendors sets POSTRIDER_VENDORS"));
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/library/vendors");
    let mut command = if language == "node" {
        // A module finds its libraries beside it.
        let name = format!("{program}.mjs");
        let script = vendors.join("npm").join(&name);
        std::fs::copy(here.join(&name), &script).unwrap();
        let mut command = Command::new("node");
        command.arg(script);
        command
    } else {
        let mut command = Command::new(vendors.join("python/bin/python"));
        command.arg(here.join(format!("{program}.py")));
        command
    };
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(Value::from(cases).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{language}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
