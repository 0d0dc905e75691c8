//! `docs/features.md` is true: every example in it is run, and every row that says yes names one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use postrider::clock::{Clock, SystemClock};
use postrider::dispatcher::CircuitSettings;
use serde_json::Value;

use crate::support::receiver::{Answer, Received, TestReceiver};
use crate::support::server;
use crate::support::server::TestServer;

const PATIENCE: Duration = Duration::from_secs(20);

struct Example {
    name: String,
    blocks: Vec<Block>,
}

/// A fenced block: what follows the fence, and what is inside.
struct Block {
    kind: String,
    text: String,
}

fn document() -> (String, Vec<Example>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/features.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (tables, examples) = text.split_once("\n# Examples\n").expect("tables, then examples");
    let examples = examples.split("\n## ").skip(1).map(|section| {
        let (name, rest) = section.split_once('\n').expect("a name");
        let mut blocks = Vec::new();
        let mut parts = rest.split("\n```");
        parts.next();
        while let (Some(block), Some(_)) = (parts.next(), parts.next()) {
            let (kind, text) = block.split_once('\n').expect("a block");
            blocks.push(Block { kind: kind.to_owned(), text: text.to_owned() });
        }
        Example { name: name.to_owned(), blocks }
    });
    (tables.to_owned(), examples.collect())
}

#[test]
fn every_row_says_how_and_names_examples_that_are_there() {
    let (tables, examples) = document();
    let known: BTreeSet<&str> = examples.iter().map(|example| example.name.as_str()).collect();
    let mut named = BTreeSet::new();
    let mut rows = 0;
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0] == "feature" {
            continue;
        }
        rows += 1;
        assert_eq!(cells.len(), 8, "{row}");
        let here = cells[7];
        let anchors: Vec<&str> = here.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        for anchor in &anchors {
            assert!(known.contains(anchor), "there is no example {anchor}: {row}");
        }
        let says_no = here.starts_with("no: ");
        let refers = !anchors.is_empty() || here.contains(".md)") || here.contains('`');
        assert!(
            says_no || (refers && (here.starts_with("yes: ") || here.starts_with("part: ") || here.starts_with('`'))),
            "{row}"
        );
        named.extend(anchors);
    }
    assert!(rows > 140, "only {rows} rows");
    assert_eq!(named, known, "every example is named by a row");
}

/// Answers as the path says.
fn answer(request: &Received) -> (Answer, Option<(&'static str, &'static str)>) {
    let last = request.path.rsplit('/').next().unwrap_or_default();
    let word = (last == "disable").then_some(("webhook-delivery", "disable"));
    (last.parse().map_or(200, |status: u16| status).into(), word)
}

struct World {
    server: TestServer,
    receiver: TestReceiver,
    /// Webhooks by name.
    uuids: HashMap<String, String>,
}

impl World {
    /// `text` with what its names stand for.
    async fn filled(&self, text: &str) -> String {
        let in_an_hour = SystemClock.now().after(Duration::from_hours(1)).to_string();
        let mut filled = text.replace("{receiver}", &self.receiver.url("")).replace("{in an hour}", &in_an_hour);
        for (name, uuid) in &self.uuids {
            let dead = format!("{{dead:{name}}}");
            if filled.contains(&dead) {
                let path = format!("/api/v1/deliveries?webhook={uuid}&state=dead");
                let page = self.server.wait_for(&path, |page| page["items"][0].is_object()).await;
                filled = filled.replace(&dead, page["items"][0]["id"].as_str().expect("an id"));
            }
            filled = filled.replace(&format!("{{{name}}}"), uuid);
        }
        filled
    }

    /// Sends a request as it stands in the document; one that only looks is sent until the answer is as expected.
    async fn request(&mut self, name: &str, text: &str, status: u16, expected: &Value) {
        let text = self.filled(text).await;
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("a method and a path");
        let token = &self.server.admin;
        let mut headers = format!("Authorization: Bearer {token}\r\n");
        if !body.is_empty() {
            headers.push_str("Content-Type: application/json\r\n");
        }
        headers.extend(lines.map(|line| format!("{line}\r\n")));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.server.request(method, path, &headers, body.trim().as_bytes()).await;
            let found = if answer.body.starts_with(['{', '[']) { answer.json() } else { Value::Null };
            let is_right = answer.status == status && has(&found, expected);
            if !is_right && method == "GET" && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            assert!(is_right, "{name}: {text}\nexpected {status} {expected}\nfound {} {}", answer.status, answer.body);
            if let (Some(uuid), Some(name)) = (found["uuid"].as_str(), found["name"].as_str()) {
                self.uuids.insert(name.to_owned(), uuid.to_owned());
            }
            return;
        }
    }

    /// Waits for a request at the receiver, after the first `before`, that has all of these lines.
    async fn received(&self, name: &str, before: usize, lines: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let requests: Vec<String> = self.receiver.received().iter().skip(before).map(shown).collect();
            if requests.iter().any(|request| lines.lines().all(|line| request.contains(line))) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name}: none with\n{lines}among\n{}",
                requests.join("\n---\n")
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn shown(request: &Received) -> String {
    let mut text = format!("{} {}\n", request.method, request.path);
    for (name, value) in &request.headers {
        text += &[name.as_str(), ": ", &String::from_utf8_lossy(value.as_bytes()), "\n"].concat();
    }
    text + "\n" + &String::from_utf8_lossy(&request.body)
}

/// Whether `found` has all that is `expected` of it.
fn has(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| found.get(name).is_some_and(|found| has(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) if expected.is_empty() => found.is_empty(),
        (Value::Array(found), Value::Array(expected)) => {
            found.len() >= expected.len() && expected.iter().zip(found).all(|(expected, found)| has(found, expected))
        }
        (Value::Number(found), Value::Number(expected)) => found.as_f64() == expected.as_f64(),
        // An answer to a `null` request has no JSON.
        (Value::Null, Value::Object(expected)) if expected.is_empty() => true,
        (found, expected) => found == expected,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = server::settings(folder.path());
    settings.dispatcher.circuit = CircuitSettings { threshold: 5, ..settings.dispatcher.circuit };
    let server = TestServer::start_with(settings).await;
    let receiver = TestReceiver::start_saying(|_, request| answer(request)).await;
    let mut world = World { server, receiver, uuids: HashMap::new() };
    let (_, examples) = document();
    for Example { name, blocks } in examples {
        let before = world.receiver.received_count();
        assert!(blocks.len() >= 2, "{name} shows nothing");
        let mut asked: Option<String> = None;
        for Block { kind, text } in blocks {
            match kind.split_once(' ') {
                None if kind == "http" => assert!(asked.replace(text).is_none(), "{name}: a request without an answer"),
                Some(("json", status)) => {
                    let request = asked.take().unwrap_or_else(|| panic!("{name}: an answer without a request"));
                    let expected =
                        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
                    world.request(&name, &request, status.parse().expect("a status"), &expected).await;
                }
                Some(("text", "received")) => world.received(&name, before, &text).await,
                _ => panic!("{name}: what is a block of {kind:?}?"),
            }
        }
        assert!(asked.is_none(), "{name}: a request without an answer");
    }
    world.server.stop().await;
}
