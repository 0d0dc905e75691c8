//! `postrider bus` as its users run it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use postrider::bus::frame::Verb;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Client;

/// A bus in a process of its own, which ends with the test if not before.
pub(crate) struct Program {
    child: Child,
    pub(crate) socket: PathBuf,
}

fn postrider(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Program {
    /// With its socket in `folder`.
    pub(crate) fn start(folder: &Path, options: &[&str], stderr: Stdio) -> Self {
        let mut command = postrider(folder, &["--json", "bus", "--socket", "bus.sock"]);
        Self::run(command.args(options).stderr(stderr))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).expect("it says where it is");
        Self { child, socket: started["socket"].as_str().unwrap().into() }
    }

    /// The memory that is there, in kB.
    pub(super) fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends it by SIGTERM; the time that it took.
    pub(crate) fn stop(mut self) -> Duration {
        let began = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        began.elapsed()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    postrider(folder, arguments).output().unwrap()
}

#[test]
fn an_operator_sees_what_flows() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &["--heartbeat", "100ms"], Stdio::null());
    let arguments = ["--json", "bus", "listen", "--socket", "bus.sock", "attacker.>", "system.bus.health"];
    let mut listening = postrider(folder.path(), &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().unwrap()["listening"], "bus.sock");
    assert_eq!(lines.next().unwrap()["topic"], "system.bus.health", "it is subscribed");

    let published = run(
        folder.path(),
        &[
            "bus",
            "publish",
            "attacker.observed",
            r#"{"ip": "198.51.100.7", "n": 12.50}"#,
            "--type",
            "observed",
            "--socket",
            "bus.sock",
        ],
    );
    assert!(published.status.success(), "{}", text(&published.stderr));
    let event = lines.find(|line| line["topic"] != "system.bus.health").unwrap();
    assert_eq!((&event["topic"], &event["type"]), (&"attacker.observed".into(), &"observed".into()));
    assert_eq!(event["payload"].to_string(), r#"{"ip":"198.51.100.7","n":12.5}"#);
    assert!(event["ts"].as_f64().unwrap() > 1.7e9 && event["id"].as_str().unwrap().len() == 32);

    program.stop();
    assert_eq!(listening.wait().unwrap().code(), Some(1), "it says that the bus has gone");
    assert!(!folder.path().join("bus.sock").exists());
}

#[test]
fn a_person_sees_one_line_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &["--heartbeat", "1"], Stdio::null());
    let listened = run(folder.path(), &["bus", "listen", "--events", "1", "--socket", "bus.sock"]);
    assert!(listened.status.success(), "{}", text(&listened.stderr));
    let line = text(&listened.stdout);
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!((words.len(), &words[1..3]), (4, &["system.bus.health", "bus.health"][..]), "{line}");
    assert!(words[3].starts_with(&format!(r#"{{"pid":{},"#, program.child.id())), "{line}");
    program.stop();
}

#[tokio::test]
async fn a_stop_takes_no_longer_than_a_second_though_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let program = Program::start(folder.path(), &["--heartbeat", "100ms"], fs::File::create(&log).unwrap().into());
    let mut sleeper = Client::subscribed(&program.socket, &["a"]).await;
    sleeper.say(Verb::Hello, "sleeper", "").await;
    let mut publisher = Client::connect(&program.socket).await;
    let body = format!(r#"{{"payload":"{}"}}"#, "x".repeat(900_000));
    for _ in 0..20 {
        publisher.say(Verb::Pub, "a", &body).await;
    }
    publisher.leave().await;
    let took = program.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let log = fs::read_to_string(log).unwrap();
    let slow: Vec<_> = log.lines().filter(|line| line.contains("reads too slowly")).collect();
    assert!(!slow.is_empty() && slow.iter().all(|line| line.contains("sleeper")), "{log}");
    assert!(log.contains("the bus has stopped"), "{log}");
}

#[test]
fn without_a_flag_the_socket_is_where_decnet_looks_for_it() {
    let home = tempfile::tempdir().unwrap();
    let variable = home.path().join("named.sock");
    let start = |named: Option<&Path>| {
        let mut command = postrider(home.path(), &["--json", "bus"]);
        command.env("HOME", home.path()).stderr(Stdio::null());
        if let Some(named) = named {
            command.env("DECNET_BUS_SOCKET", named);
        }
        Program::run(&mut command)
    };
    let program = start(Some(&variable));
    assert_eq!(program.socket, variable);
    program.stop();
    if !Path::new("/run/decnet").exists() {
        let program = start(None);
        assert_eq!(program.socket, home.path().join(".decnet/bus.sock"));
        let published = postrider(home.path(), &["bus", "publish", "a"]).env("HOME", home.path()).output().unwrap();
        assert!(published.status.success(), "{}", text(&published.stderr));
        program.stop();
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], code, words: &str| {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    };
    let program = Program::start(folder.path(), &[], Stdio::null());
    refused(&["bus", "--socket", "bus.sock"], 1, "another server has");
    refused(&["bus", "--socket", "no/folder/bus.sock"], 1, "is not there");
    refused(&["bus", "--heartbeat", "0"], 2, "the least is 100 ms");
    refused(&["bus", "listen", "--socket", "none.sock"], 1, "start the bus with postrider bus");
    refused(&["bus", "publish", "a", "{", "--socket", "bus.sock"], 2, "no JSON");
    refused(&["bus", "publish", "a", "1e400", "--socket", "bus.sock"], 2, "beyond a double");
    refused(&["bus", "publish", "caf\u{e9}", "--socket", "bus.sock"], 2, "not ASCII");
    refused(&["bus", "publish", " ", "--socket", "bus.sock"], 2, "must not be empty");
    refused(&["bus", "listen", " ", "--socket", "bus.sock"], 2, "must not be empty");
    program.stop();
    fs::write(folder.path().join("bus.sock"), "a file").unwrap();
    refused(&["bus", "--socket", "bus.sock"], 1, "no socket");
}
