//! A whole server in this process, on a free port and a folder of its own, and a client that sees every byte.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use postrider::delivery::client::ClientOptions;
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::retry::Schedule;
use postrider::delivery::statuses::StatusLists;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::DEFAULT_IDEMPOTENCY_TTL;
use postrider::engine::figures::FigureSettings;
use postrider::engine::nodes::NodeSettings;
use postrider::engine::retention::RetentionSettings;
use postrider::serve::{ServeError, ServeSettings, Started, StoreSettings, serve};
use postrider::store::Quotas;
use postrider::store::sqlite::SqliteOptions;
use postrider::telemetry::{TelemetrySettings, subscriber};
use postrider::webhook::Capture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::util::SubscriberInitExt;

/// What a test waits for at most, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn settings(folder: &Path) -> ServeSettings {
    ServeSettings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        data_dir: folder.to_owned(),
        is_new_installation: false,
        drain_timeout: Duration::from_secs(5),
        max_connections_per_peer: 2_048,
        cors_origins: Vec::new(),
        admin_token: None,
        decnet: None,
        master_key: None,
        client: ClientOptions {
            policy: EgressPolicy {
                allow_private: vec!["127.0.0.0/8".parse().expect("a network")],
                ..EgressPolicy::default()
            },
            ..ClientOptions::default()
        },
        dispatcher: DispatcherSettings {
            max_in_flight: 16,
            max_lane_deliveries: 100,
            max_memory_bytes: 16 * 1024 * 1024,
            retry_schedule: Schedule::once(),
            max_age: None,
            capture: Capture::Failures,
            statuses: StatusLists::default(),
            circuit: CircuitSettings {
                threshold: 100,
                cool_down: Duration::from_secs(30),
                max_cool_down: Duration::from_hours(1),
            },
        },
        retention: RetentionSettings::FOREVER,
        // As often as a test can wait for.
        figures: FigureSettings { flush_interval: Duration::from_millis(50), ..FigureSettings::default() },
        idempotency_ttl: DEFAULT_IDEMPOTENCY_TTL,
        new_tenant_quotas: Quotas::default(),
        node: NodeSettings::default(),
        sources: Vec::new(),
        store: StoreSettings::Sqlite(SqliteOptions::default()),
    }
}

/// A server that runs until [`TestServer::stop`].
pub(crate) struct TestServer {
    pub address: SocketAddr,
    /// The token of the first start, or none.
    pub admin: String,
    pub log: Log,
    /// Every answer given, as it went over the wire.
    pub answers: Mutex<Vec<String>>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self.json()
    }

    /// Asserts that it refuses with problem details that name `field` and say `reason`.
    #[track_caller]
    pub(crate) fn expect_refusal(self, status: u16, field: &str, reason: &str) {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:postrider:problem:")), "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
        let names_it = |error: &Value| {
            error["field"] == field && error["reason"].as_str().is_some_and(|text| text.contains(reason))
        };
        assert!(errors.iter().any(names_it), "no error of {field} that says {reason:?}: {problem}");
    }
}

impl TestServer {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(settings(folder)).await
    }

    /// In a folder that goes when it is dropped.
    pub(crate) async fn in_new_folder() -> (TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let server = Self::start(folder.path()).await;
        (folder, server)
    }

    pub(crate) async fn start_with(settings: ServeSettings) -> Self {
        let log = Log::of_process();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let running = tokio::spawn(async move {
            let started = |started: &Started| {
                let token = started.new_admin_token.as_ref().map(SecretString::expose_secret).unwrap_or_default();
                tell.send((started.address, token.to_owned())).expect("the test waits");
            };
            let shutdown = async {
                stopped.await.ok();
            };
            serve(settings, started, shutdown).await
        });
        let Ok((address, admin)) = told.await else {
            panic!("the server does not start: {:?}", running.await.expect("it does not panic"))
        };
        Self { address, admin, log, answers: Mutex::default(), stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.running.await.expect("it does not panic").expect("it ends well");
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) {
        self.running.await.expect("it does not panic").expect("it ends well");
        drop(self.stop);
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &self.admin, "").await
    }

    pub(crate) async fn post(&self, path: &str, json: &str) -> Answer {
        self.call("POST", path, &self.admin, json).await
    }

    /// A request with a token and, unless it is empty, a body of JSON.
    pub(crate) async fn call(&self, method: &str, path: &str, token: &str, json: &str) -> Answer {
        let content = if json.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.request(method, path, &format!("Authorization: Bearer {token}\r\n{content}"), json.as_bytes()).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let mut bytes = format!("{head}{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    /// Sends bytes as they are and reads the answer to its end.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        // A server that refuses early may close before all is written; what it answered still counts.
        stream.write_all(bytes).await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time").ok();
        let text = String::from_utf8(answer).expect("answers are UTF-8");
        self.answers.lock().expect("no test panics here").push(text.clone());
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer, only {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Asks again until the answer is as wanted.
    pub(crate) async fn wait_for(&self, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await.expect(200);
            if is_wanted(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} stays {answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a webhook and returns the whole answer.
    pub(crate) async fn webhook(&self, name: &str, url: &str, pattern: &str) -> Value {
        let body = serde_json::json!({"name": name, "url": url, "topic_patterns": [pattern]});
        self.post("/api/v1/webhooks", &body.to_string()).await.expect(201)
    }

    /// Makes a token with these scopes, as JSON, and returns it.
    pub(crate) async fn token(&self, scopes: &str) -> String {
        let body = format!(r#"{{"name": "test", "scopes": {scopes}}}"#);
        let created = self.post("/api/v1/tokens", &body).await.expect(201);
        created["token"].as_str().expect("the answer shows the token").to_owned()
    }
}

/// What the process logs, down to debug.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// One log for the process: tests that run beside each other share it.
    pub(crate) fn of_process() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let settings = TelemetrySettings { filter: "trace".to_owned(), ..TelemetrySettings::default() };
            let writer = log.clone();
            subscriber(&settings, move || writer.clone()).expect("a valid filter").try_init().expect("no other log");
            log
        })
        .clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no test panics here")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().expect("no test panics here"), bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
