//! The requests of the original's clients, recorded with its answers: a client of the original gets the same from Postrider,
//! but for the differences that stand here with their reasons, as in docs/decnet.md.

use std::collections::{BTreeMap, BTreeSet};

use postrider::delivery::guard::EgressPolicy;
use postrider::serve::ServeSettings;
use serde_json::{Map, Value, json};

use crate::support::server::{Answer, TestServer, settings};

const RECORDED: &str = include_str!("../fixtures/decnet/api.jsonl");

/// A difference that stays on purpose.
struct Difference {
    /// The requests by name; none: any.
    of: &'static [&'static str],
    /// Where the answers differ: `status`, a header, a field of the body, `body` for its form.
    at: &'static str,
    /// Postrider's own, if it is always the same.
    ours: Option<&'static str>,
    reason: &'static str,
}

const SLASHES: &str =
    "a path is the same with and without a slash at its end, so that no client need follow a redirect";
const STATUSES: &str =
    "400 says that the body is no JSON or that no pattern is given; for everything else there is 422";

const DIFFERENCES: &[Difference] = &[
    // What any answer may have.
    any("more", None, "a webhook has more settings and more state"),
    any("warnings", None, "the first word is the same, which clients look at; the sentence is Postrider's own"),
    any("content-type", Some("application/problem+json"), "errors are problem details (RFC 9457)"),
    any("detail", None, "it is a text as with the original, and names the field and what to do"),
    any("www-authenticate", Some("Bearer realm=\"postrider\""), "a parameter beside the same scheme"),
    // Paths and methods.
    status(&["create-no-slash"], "201", SLASHES),
    status(&["list-no-slash", "get-slash", "patch-slash", "test-slash"], "200", SLASHES),
    status(&["head-list"], "200", "HEAD is answered as GET without its body (RFC 9110, section 9.3.2)"),
    Difference {
        of: &["put", "delete-collection"],
        at: "allow",
        ours: None,
        reason: "all methods of the path are named (RFC 9110, section 10.2.1), not those of one of its handlers",
    },
    status(&["options"], "204", "browsers take any 2xx for a leave, and this one has no content"),
    Difference { of: &["options"], at: "body", ours: Some(""), reason: "the status says it all" },
    Difference { of: &["options"], at: "content-type", ours: Some("null"), reason: "there is no content" },
    Difference {
        of: &["options"],
        at: "access-control-allow-methods",
        ours: Some("GET, HEAD, POST, PATCH, DELETE"),
        reason: "the API has no PUT, and a page need not ask for OPTIONS itself",
    },
    // Requests and what they may have.
    status(&["bearer-lower"], "200", "the name of a scheme has either case (RFC 9110, section 11.1)"),
    status(
        &["query-param-unknown", "query-limit"],
        "422",
        "an unknown parameter is a mistyped filter, and would show or change more than was meant",
    ),
    status(
        &["create-extra-field", "patch-extra"],
        "422",
        "an unknown field is a mistyped setting, as a `filter` without which all events would be sent",
    ),
    status(
        &["create-dup-keys"],
        "422",
        "a field that is given twice means one thing here and another thing to a proxy or a log",
    ),
    status(
        &["create-null-lists", "create-enabled-null"],
        "201",
        "`null` is like not given everywhere, as in the original's PATCH",
    ),
    status(
        &["create-ct-jsonpatch"],
        "415",
        "JSON Patch (RFC 6902) is another format, and a body in it would be misread",
    ),
    status(&["create-empty-body"], "415", "a request without a body has no media type, either"),
    Difference {
        of: &["create-text-plain", "create-no-ct", "test-with-form-body"],
        at: "body",
        ours: None,
        reason: "all errors have the same form",
    },
    status(&["create-not-json"], "400", STATUSES),
    status(
        &[
            "create-missing-name",
            "create-missing-url",
            "create-empty-name",
            "create-name-number",
            "create-secret-15",
            "create-secret-empty",
            "pattern-nonstring",
        ],
        "422",
        STATUSES,
    ),
    // Values.
    status(
        &["create-name-spaces", "create-name-control"],
        "422",
        "a name stands in lists, logs and terminals, where it must be seen and must not pass for another line",
    ),
    status(
        &["create-secret-newline"],
        "422",
        "a line end in a secret comes along from a file or a terminal, and its receiver verifies without it",
    ),
    status(
        &[
            "pattern-a b",
            "pattern->.x",
            "pattern-a.>.b",
            "pattern-a..b",
            "pattern-*x",
            "pattern-a.",
            "pattern-é",
            "pattern-a*300",
            "pattern-x*4090",
        ],
        "422",
        "no topic of Postrider matches such a pattern, or more topics than it says: `a.>.b` is `a.>` to the original",
    ),
    status(&["patterns-300"], "422", "a webhook has at most 256 patterns, as every list has a limit"),
    // URLs.
    status(
        &["url http://127.0.0.1:4445/a b", "url http://127.0.0.1:4445/h#frag", "url http://127.0.0.1:0/h"],
        "422",
        "parsers read a blank differently, a fragment is not sent, and port 0 is nobody's",
    ),
    Difference {
        of: &["url http://user:pw@127.0.0.1:4445/h", "list"],
        at: "url",
        ours: Some("http://127.0.0.1:4445/h"),
        reason: "user name and password become `auth`, which sends the same header and is not shown",
    },
    status(
        &["url http://bücher.invalid/h", "url http://no-such-host.invalid/h"],
        "201",
        "a name is resolved at each attempt; what it is when a webhook is made says nothing of later",
    ),
    status(
        &["url http://169.254.169.254/latest"],
        "422",
        "opening private networks does not open cloud metadata services, which hand out credentials",
    ),
    // Tests.
    Difference {
        of: &["test-refused", "test-with-json-body"],
        at: "error",
        ours: None,
        reason: "it begins with the phase that failed, as `connect: `, not with a class of the original's HTTP library",
    },
];

const fn any(at: &'static str, ours: Option<&'static str>, reason: &'static str) -> Difference {
    Difference { of: &[], at, ours, reason }
}

const fn status(of: &'static [&'static str], ours: &'static str, reason: &'static str) -> Difference {
    Difference { of, at: "status", ours: Some(ours), reason }
}

/// A difference that was found.
#[derive(Debug)]
struct Found {
    of: String,
    at: String,
    original: Value,
    ours: Value,
}

/// What stands for what: values that each server makes for itself.
#[derive(Default)]
struct Counterparts {
    uuids: BTreeMap<String, String>,
    times: BTreeMap<String, String>,
    /// Webhooks that one of the servers has alone, since it alone accepted the request.
    unpaired: BTreeSet<String>,
}

impl Counterparts {
    /// A text of the recording, with the uuids of this server.
    fn translated(&self, text: &str) -> String {
        self.uuids.iter().fold(text.to_owned(), |text, (original, ours)| text.replace(original, ours))
    }

    /// Whether two values that the servers made can stand for each other.
    fn are(&mut self, field: &str, original: &Value, ours: &Value) -> bool {
        let (Some(original), Some(ours)) = (original.as_str(), ours.as_str()) else { return original == ours };
        match field {
            "uuid" => self.uuids.get(original).is_some_and(|paired| paired == ours),
            "created_at" | "updated_at" => {
                let is_alike = ours.len() == original.len() && ours.ends_with('Z');
                is_alike && self.times.entry(original.to_owned()).or_insert_with(|| ours.to_owned()) == ours
            }
            // Both make one of 32 bytes, and take one that is given.
            "secret" => original == ours || (original.len() == 43 && ours.len() == 43),
            _ => original == ours,
        }
    }
}

struct Replay {
    server: TestServer,
    counterparts: Counterparts,
    found: Vec<Found>,
}

impl Replay {
    async fn send(&self, recorded: &Value) -> Answer {
        let mut headers: BTreeMap<&str, String> = BTreeMap::new();
        headers.insert("Authorization", format!("Bearer {}", self.server.admin));
        let body = match (recorded.get("json"), recorded.get("text")) {
            (Some(json), _) => {
                headers.insert("Content-Type", "application/json".to_owned());
                json.to_string()
            }
            (None, text) => text.and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        for (name, value) in recorded.get("headers").and_then(Value::as_object).into_iter().flatten() {
            match value.as_str() {
                Some(value) => headers.insert(name, value.replace("{token}", &self.server.admin)),
                None => headers.remove(name.as_str()),
            };
        }
        let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let path = self.counterparts.translated(recorded["path"].as_str().unwrap());
        self.server.request(recorded["method"].as_str().unwrap(), &path, &headers, body.as_bytes()).await
    }

    async fn replay(&mut self, recorded: &Value) {
        let (name, expected) = (recorded["name"].as_str().unwrap(), &recorded["answer"]);
        let answer = self.send(recorded).await;
        self.note(name, "status", &expected["status"], &json!(answer.status));
        let ours = serde_json::from_str(&answer.body).unwrap_or_else(|_| json!(answer.body));
        let original = &expected["body"];
        let made =
            |status: &Value, body: &Value| (*status == 201).then(|| body["uuid"].as_str().map(str::to_owned)).flatten();
        match (made(&expected["status"], original), made(&json!(answer.status), &ours)) {
            (Some(original), Some(ours)) => {
                self.counterparts.uuids.insert(original, ours);
            }
            (original, ours) => self.counterparts.unpaired.extend(original.into_iter().chain(ours)),
        }
        // Where one refuses what the other does, all else differs, too. A preflight says the same with another status.
        if expected["status"] != answer.status && name != "options" {
            return;
        }
        for (header, value) in expected["headers"].as_object().unwrap() {
            self.note(name, header, value, &json!(answer.header(header)));
        }
        match (original, &ours) {
            (Value::Array(original), Value::Array(ours)) => self.compare_lists(name, original, ours),
            (Value::Object(original), Value::Object(ours)) => self.compare(name, original, ours),
            _ => self.note(name, "body", original, &ours),
        }
    }

    fn compare_lists(&mut self, name: &str, original: &[Value], ours: &[Value]) {
        let is_paired = |unpaired: &BTreeSet<String>, webhook: &Value| {
            webhook["uuid"].as_str().is_some_and(|uuid| !unpaired.contains(uuid))
        };
        let paired = |webhooks: &[Value]| -> Vec<Value> {
            let unpaired = &self.counterparts.unpaired;
            webhooks.iter().filter(|webhook| is_paired(unpaired, webhook)).cloned().collect()
        };
        let (original, ours) = (paired(original), paired(ours));
        assert_eq!(original.len(), ours.len(), "{name}: the lists have the same webhooks");
        for (original, ours) in original.iter().zip(&ours) {
            self.compare(name, original.as_object().unwrap(), ours.as_object().unwrap());
        }
    }

    fn compare(&mut self, name: &str, original: &Map<String, Value>, ours: &Map<String, Value>) {
        for (field, value) in original {
            let own = ours.get(field).unwrap_or(&Value::Null);
            self.note(name, field, value, own);
        }
        let more: Vec<&String> = ours.keys().filter(|field| !original.contains_key(*field)).collect();
        if !more.is_empty() {
            self.note(name, "more", &Value::Null, &json!(more));
        }
    }

    fn note(&mut self, name: &str, at: &str, original: &Value, ours: &Value) {
        if !self.counterparts.are(at, original, ours) {
            let (of, at) = (name.to_owned(), at.to_owned());
            self.found.push(Found { of, at, original: original.clone(), ours: ours.clone() });
        }
    }
}

#[tokio::test]
async fn a_client_of_the_original_gets_the_answers_that_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    // The original was recorded so, with `DECNET_WEBHOOK_ALLOW_PRIVATE=true`.
    settings.client.policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    settings.client.policy.allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let cors_origins = vec!["http://localhost:8080".parse().unwrap()];
    let server = TestServer::start_with(ServeSettings { cors_origins, ..settings }).await;
    let mut replay = Replay { server, counterparts: Counterparts::default(), found: Vec::new() };
    let recorded: Vec<Value> = RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(recorded.len(), 129);
    for request in &recorded {
        replay.replay(request).await;
    }
    let mut used = vec![BTreeSet::new(); DIFFERENCES.len()];
    let mut unknown = Vec::new();
    for found in &replay.found {
        let is_known = |known: &Difference| {
            let of = known.of.is_empty() || known.of.contains(&&*found.of);
            let shown = found.ours.as_str().map_or_else(|| found.ours.to_string(), str::to_owned);
            of && known.at == found.at && known.ours.is_none_or(|ours| ours == shown)
        };
        match DIFFERENCES.iter().position(is_known) {
            Some(index) => {
                used[index].insert(&*found.of);
            }
            None => unknown
                .push(format!("{}: {} is {}, with the original {}", found.of, found.at, found.ours, found.original)),
        }
    }
    assert!(unknown.is_empty(), "{} differences have no reason:\n{}", unknown.len(), unknown.join("\n"));
    for (known, used) in DIFFERENCES.iter().zip(used) {
        let needless: Vec<&&str> = known.of.iter().filter(|of| !used.contains(**of)).collect();
        assert!(
            !used.is_empty() && needless.is_empty(),
            "no difference at {}: {needless:?} ({})",
            known.at,
            known.reason
        );
    }
    replay.server.stop().await;
}
