//! The README is true: its tour is walked with the real program, its snippets verify a real request. (Its
//! Rust snippets are examples of the crate's documentation.)

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use postrider::clock::{Clock, SystemClock};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::{DeliverOptions, deliver};
use postrider::event::Event;
use postrider::signing::{DEFAULT_TOLERANCE_S, SigningKeys, standard_signature, verify_decnet, verify_standard};
use postrider::topic::Topic;
use postrider::webhook::Webhook;
use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;

const README: &str = include_str!("../../README.md");
/// How long a program may take to say what it should.
const PATIENCE: Duration = Duration::from_secs(30);

/// The code blocks of the README in one language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).map(|rest| rest.split("```\n").next().unwrap()).collect()
}

// --- the tour ---

/// A command of the tour and what the README says that it prints.
struct Step {
    command: &'static str,
    printed: String,
}

fn tour() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in blocks("console").into_iter().flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command, printed: String::new() }),
            None => steps.last_mut().expect("a block begins with a command").printed.extend([line, "\n"]),
        }
    }
    steps
}

/// Where the tour is walked: its folder, and what the README calls otherwise.
struct Walk {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    /// What is so here, and what the README has for it.
    names: Vec<(String, &'static str)>,
}

impl Walk {
    fn command(&self, command: &str) -> Command {
        let here = self.names.iter().fold(command.to_owned(), |command, (here, shown)| command.replace(shown, here));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(here).current_dir(self.folder.path());
        shell.env_clear().env("PATH", path()).envs(&self.environment);
        shell.stdin(Stdio::null());
        shell
    }

    /// `text` with one name for what differs from run to run.
    fn masked(&self, text: &str) -> String {
        let text = self.names.iter().fold(text.to_owned(), |text, (here, shown)| text.replace(here, shown));
        let lines = text.lines().map(|line| line.split_whitespace().map(masked_word).collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn is_as_shown(&self, printed: &str, step: &Step) -> bool {
        self.masked(printed) == self.masked(&step.printed)
    }

    #[track_caller]
    fn assert_as_shown(&self, printed: &str, step: &Step) {
        assert_eq!(self.masked(printed), self.masked(&step.printed), "$ {}\n{printed}", step.command);
    }

    /// Runs a command to its end. What only looks is repeated until it sees what it should: a delivery
    /// takes a moment.
    fn run(&self, step: &Step) {
        let only_looks = step.command.contains(" list") || step.command.contains("/metrics");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.command(&format!("({}) 2>&1", step.command)).output().unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            if only_looks && !self.is_as_shown(&printed, step) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            return self.assert_as_shown(&printed, step);
        }
    }
}

/// The program under test comes first.
#[expect(clippy::disallowed_methods, reason = "the tour needs the system's programs too")]
fn path() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_postrider")).parent().unwrap();
    format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default())
}

fn masked_word(word: &str) -> String {
    let is_time = word.bytes().all(|b| b.is_ascii_digit() || b":-.TZ".contains(&b))
        && word.bytes().filter(|b| b":-".contains(b)).count() >= 2;
    if is_time {
        return "TIME".to_owned();
    }
    if word.len() == 36 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return "UUID".to_owned();
    }
    for prefix in ["pr_", "whsec_"] {
        if let Some((before, key)) = word.split_once(prefix).filter(|(_, key)| key.len() > 30) {
            return format!("{before}{prefix}[{} characters]", key.len());
        }
    }
    word.to_owned()
}

/// What a program has printed so far.
#[derive(Default)]
struct Printed {
    text: String,
    is_all: bool,
}

/// A program that stays, until it is dropped.
struct Staying {
    child: Child,
    printed: Arc<(Mutex<Printed>, Condvar)>,
}

impl Staying {
    fn start(walk: &Walk, command: &str) -> Self {
        let mut command = walk.command(&format!("exec {command} 2>&1"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let printed = Arc::<(Mutex<Printed>, Condvar)>::default();
        let into = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                into.0.lock().unwrap().text.extend([&*line, "\n"]);
                into.1.notify_all();
            }
            into.0.lock().unwrap().is_all = true;
            into.1.notify_all();
        });
        Self { child, printed }
    }

    /// What it printed, as soon as that is `enough`, or when the program or patience ends.
    fn wait_for(&self, enough: impl Fn(&str) -> bool) -> String {
        let printed = self.printed.0.lock().unwrap();
        let is_too_little = |printed: &mut Printed| !printed.is_all && !enough(&printed.text);
        let (printed, _) = self.printed.1.wait_timeout_while(printed, PATIENCE, is_too_little).unwrap();
        printed.text.clone()
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What follows the last `before` in `text`, up to the next space.
fn word_after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.rsplit_once(before)?.1.split_whitespace().next()
}

#[test]
fn the_tour_goes_as_shown() {
    let folder = tempfile::tempdir().unwrap();
    let names = vec![(folder.path().canonicalize().unwrap().display().to_string(), "/srv")];
    let mut walk = Walk { folder, environment: BTreeMap::new(), names };
    let mut staying: Vec<(Staying, Step)> = Vec::new();
    let steps = tour();
    assert!(steps.len() > 5, "the tour was not found");
    for step in steps {
        let (started, shown) = match step.command.split(' ').nth(1) {
            Some("serve") => {
                walk.environment.insert("POSTRIDER_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
                (Staying::start(&walk, step.command), "127.0.0.1:4665")
            }
            Some("listen") => {
                (Staying::start(&walk, &format!("{} --listen 127.0.0.1:0", step.command)), "127.0.0.1:9000")
            }
            _ => {
                match step.command.strip_prefix("export POSTRIDER_TOKEN=") {
                    Some(_) => assert!(walk.environment.contains_key("POSTRIDER_TOKEN"), "the server shows a token"),
                    None => walk.run(&step),
                }
                continue;
            }
        };
        let banner = started.wait_for(|printed| {
            printed.contains("http://") && (shown.ends_with("9000") || printed.contains("POSTRIDER_TOKEN="))
        });
        let address = word_after(&banner, "http://").unwrap_or_else(|| panic!("no address: {banner}")).to_owned();
        if let Some(token) = word_after(&banner, "POSTRIDER_TOKEN=") {
            walk.environment.insert("POSTRIDER_TOKEN".to_owned(), token.to_owned());
            walk.environment.insert("POSTRIDER_SERVER".to_owned(), format!("http://{address}"));
        }
        walk.names.push((address, shown));
        staying.push((started, step));
    }
    assert_eq!(staying.len(), 2, "the tour has a server and a receiver");
    for (program, step) in &staying {
        let printed = program.wait_for(|printed| walk.is_as_shown(printed, step));
        walk.assert_as_shown(&printed, step);
    }
}

#[test]
fn the_two_commands_exist() {
    let commands: Vec<&str> = blocks("sh").into_iter().flat_map(str::lines).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "scripts/test"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test");
    let mode = std::os::unix::fs::PermissionsExt::mode(&script.metadata().unwrap().permissions());
    assert_eq!(mode & 0o111, 0o111, "scripts/test can be run");
    let demo = Command::new(env!("CARGO_BIN_EXE_postrider")).args(["demo", "--help"]).output().unwrap();
    assert!(demo.status.success(), "{demo:?}");
}

// --- verifying ---

/// A request that a receiver may get, and whether each scheme's verification should pass.
struct Case {
    story: &'static str,
    headers: HeaderMap,
    body: Vec<u8>,
    keys: SigningKeys,
    decnet: bool,
    standard: bool,
}

/// A request as the program sends it, and ways in which it can be wrong.
async fn cases() -> Vec<Case> {
    let receiver = TestReceiver::healthy().await;
    let keys = SigningKeys::generate();
    let webhook = Webhook::new(&receiver.url("/hook"), keys.clone()).unwrap();
    let payload = r#"{"who": "Zoë", "amount": 12.50, "note": "a.1790000000."}"#;
    let event = Event::new(Topic::parse("order.paid").unwrap(), "paid", payload, SystemClock.now()).unwrap();
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    let result = deliver(&client, &webhook, &event, &DeliverOptions::default()).await;
    assert!(result.ok, "{result:?}");
    let request = receiver.wait_for(1).await.remove(0);

    let case = |story, decnet, standard| Case {
        story,
        headers: request.headers.clone(),
        body: request.body.to_vec(),
        keys: keys.clone(),
        decnet,
        standard,
    };
    let with = |mut case: Case, name: &'static str, value: &str| {
        case.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        case
    };
    let mut tampered = case("the body was changed", false, false);
    tampered.body = String::from_utf8(tampered.body).unwrap().replace("12.50", "99.50").into();
    assert_ne!(tampered.body, request.body);
    let mut other_keys = case("signed with other keys", false, false);
    other_keys.keys = SigningKeys::generate();
    let mut bare = case("no signature at all", false, false);
    bare.headers.clear();
    let an_hour_ago = SystemClock.now().seconds() - 3_600;
    let old_signature = standard_signature(&keys.standard, request.header("webhook-id"), an_hour_ago, &request.body);
    let old = with(case("sent again an hour later", true, false), "webhook-timestamp", &an_hour_ago.to_string());
    let two = format!("v1,AAAA {}", request.header("webhook-signature"));
    vec![
        case("as it was sent", true, true),
        tampered,
        other_keys,
        bare,
        with(old, "webhook-signature", &old_signature),
        with(case("another delivery's id", true, false), "webhook-id", "another"),
        with(case("a time that is none", true, false), "webhook-timestamp", "²"),
        with(case("two signatures, as in a change of keys", true, true), "webhook-signature", &two),
        with(case("another scheme's name", true, false), "webhook-signature", "sha256=00"),
    ]
}

impl Case {
    /// As a line of JSON for the other languages.
    fn to_json(&self) -> Value {
        let latin1 = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect::<String>();
        let headers: BTreeMap<_, _> = self.headers.iter().map(|(name, value)| (name.as_str(), latin1(value))).collect();
        json!({
            "headers": headers,
            "body": STANDARD.encode(&self.body),
            "secret": self.keys.decnet.expose(),
            "key": *self.keys.standard.expose(),
        })
    }

    fn expected(&self) -> Value {
        json!({ "decnet": self.decnet, "standard": self.standard })
    }
}

/// Runs `program` on `code`, with a case a line as its input, and compares what it says of each.
async fn verify_with(program: &str, language: &str, file: &str, harness: &str) {
    let snippets = blocks(language);
    assert_eq!(snippets.len(), 1, "one snippet in {language}");
    let cases = cases().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    fs::write(&path, format!("{}\n{harness}", snippets[0])).unwrap();
    let spawned =
        Command::new(program).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| {
        panic!("{program}: {error}. Run scripts/test, which installs what the tests need.");
    });
    let mut input = child.stdin.take().unwrap();
    for case in &cases {
        writeln!(input, "{}", case.to_json()).unwrap();
    }
    drop(input);
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let output = child.wait_with_output().unwrap();
    let answers: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(answers.len(), cases.len(), "{errors}");
    for (case, answer) in cases.iter().zip(answers) {
        assert_eq!(answer, case.expected(), "{language}: {}", case.story);
    }
}

#[tokio::test]
async fn the_python_snippet_tells_genuine_requests_from_others() {
    let harness = r#"
import json, sys
from email.message import Message
for line in sys.stdin:
    case = json.loads(line)
    headers = Message()
    for name, value in case["headers"].items():
        headers[name] = value
    body = base64.b64decode(case["body"])
    print(json.dumps({
        "decnet": verify_decnet(case["secret"], headers, body),
        "standard": verify_standard(case["key"], headers, body),
    }))
"#;
    verify_with("python3", "python", "verify.py", harness).await;
}

#[tokio::test]
async fn the_node_snippet_tells_genuine_requests_from_others() {
    let harness = r#"
import { readFileSync } from "node:fs";
for (const line of readFileSync(0, "utf8").trim().split("\n")) {
  const { headers, body, secret, key } = JSON.parse(line);
  const bytes = Buffer.from(body, "base64");
  const [decnet, standard] = [verifyDecnet(secret, headers, bytes), verifyStandard(key, headers, bytes)];
  console.log(JSON.stringify({ decnet, standard }));
}
"#;
    verify_with("node", "js", "verify.mjs", harness).await;
}

#[tokio::test]
async fn the_library_tells_them_apart_as_well() {
    for case in cases().await {
        let decnet = verify_decnet(&case.keys.decnet, &case.headers, &case.body).is_ok();
        let now = SystemClock.now();
        let standard =
            verify_standard(&case.keys.standard, &case.headers, &case.body, now, DEFAULT_TOLERANCE_S).is_ok();
        assert_eq!(json!({ "decnet": decnet, "standard": standard }), case.expected(), "{}", case.story);
    }
}
