//! The examples as a reader runs them: `deliver` posts to `receiver`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const SECRET: &str = "a secret of enough characters";

/// Cargo builds the examples with the tests, into a folder beside theirs.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is missing; `cargo build --examples` makes it", path.display());
    path
}

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn deliver(url: &str, secret: &str) -> (Output, String) {
    let output = Command::new(example("deliver")).args([url, "--secret", secret]).output().unwrap();
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    (output, printed)
}

#[test]
fn what_one_example_delivers_the_other_takes_if_the_secret_is_right() {
    let mut receiver = Command::new(example("receiver"));
    receiver.args(["--secret", SECRET, "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut receiver = Running(receiver.spawn().unwrap());
    let mut lines = BufReader::new(receiver.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.next().unwrap().strip_prefix("listening on ").unwrap().to_owned();

    let (output, printed) = deliver(&url, "another secret altogether");
    assert!(!output.status.success(), "{printed}");
    assert!(printed.contains("failed after 1 attempt") && printed.contains("non-retryable 401"), "{printed}");

    let (output, printed) = deliver(&url, SECRET);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("delivered after 1 attempt"), "{printed}");
    // The refused one was not shown before it.
    let event = lines.next().unwrap();
    assert!(event.contains(r#""topic":"attacker.session.started""#), "{event}");
}
