//! The program as its users run it: real processes, real sockets, real files.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json as object};

const SECRET: &str = "a secret of enough characters";
const WAIT: Duration = Duration::from_secs(30);

/// The program in `folder`, without settings from the tests' own environment.
fn postrider(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[track_caller]
fn expect_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// A program that runs until it is told to stop, or until it is dropped; its output by lines.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the program ended without another line");
        line.trim_end().to_owned()
    }

    fn json(&mut self) -> Value {
        json(self.line().as_bytes())
    }

    fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command writes on a terminal, answer and notes in one.
fn on_terminal(mut command: Command) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, Vec::new()).unwrap().into_string().unwrap();
    let far = || std::fs::File::options().read(true).write(true).open(&name).unwrap();
    let mut child = command.env("TERM", "xterm").stdout(far()).stderr(far()).spawn().unwrap();
    // The last holders of its far side end the terminal.
    drop(command);
    let mut written = Vec::new();
    // Linux tells the end as an error.
    let _ = std::fs::File::from(near).read_to_end(&mut written);
    child.wait().unwrap();
    text(&written)
}

/// A server in a folder of its own, and its admin's command line.
struct Server {
    running: Running,
    url: String,
    token: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Running::start(serve(folder.path()));
        let started = running.json();
        let token = started["new_admin_token"].as_str().unwrap().to_owned();
        Self { running, url: started["url"].as_str().unwrap().to_owned(), token, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = postrider(self.folder.path(), arguments);
        command.env("POSTRIDER_SERVER", &self.url).env("POSTRIDER_TOKEN", &self.token);
        command
    }

    /// What a command answers in JSON.
    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> Value {
        let output = run(self.command(arguments).arg("--json"));
        expect_exit(&output, 0);
        json(&output.stdout)
    }

    /// Asks for deliveries until one is in `state`.
    #[track_caller]
    fn delivery(&self, webhook: &str, state: &str) -> Value {
        let give_up = Instant::now() + WAIT;
        loop {
            let page = self.ask(&["delivery", "list", "--webhook", webhook, "--state", state]);
            if let Some(delivery) = page["items"].as_array().and_then(|items| items.first()) {
                return delivery.clone();
            }
            assert!(Instant::now() < give_up, "no delivery to {webhook} became {state}");
        }
    }
}

fn serve(folder: &Path) -> Command {
    let arguments = ["serve", "--json", "--listen", "127.0.0.1:0", "--allow-private", "127.0.0.0/8", "--log", "warn"];
    postrider(folder, &arguments)
}

/// `postrider listen` on `address` and the address it has.
fn listen(folder: &Path, address: &str, more: &[&str]) -> (Running, String) {
    let mut command = postrider(folder, &["listen", "--json", "--listen", address]);
    command.args(more);
    let mut running = Running::start(command);
    let url = running.json()["listening"].as_str().unwrap().to_owned();
    (running, url)
}

// --- help ---

#[test]
fn the_help_gives_an_overview() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(folder.path(), &["--help"]));
    expect_exit(&output, 0);
    insta::assert_snapshot!(text(&output.stdout));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = paths.pop() {
        let mut command = postrider(folder.path(), &[]);
        let output = run(command.args(&path).arg("--help"));
        expect_exit(&output, 0);
        let help = text(&output.stdout);
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
        for name in commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            paths.push(path.iter().cloned().chain([name.to_owned()]).collect());
        }
        if !path.is_empty() {
            assert!(help.contains(&format!("Usage: postrider {}", path.join(" "))), "{help}");
            assert!(help.contains("Example"), "no example in the help of {path:?}: {help}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}

#[test]
fn what_cannot_be_understood_exits_with_2_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, reason) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["serve", "--drain-timeout", "soon"], "is no duration"),
        (&["listen", "--secret", "short"], "16 to 256 characters"),
        (&["event", "send"], "<TOPIC>"),
        (&["event", "list", "--token", "t", "--server", "ftp://x"], "is no address of a server"),
    ] {
        let output = run(&mut postrider(folder.path(), arguments));
        expect_exit(&output, 2);
        assert!(text(&output.stderr).contains(reason), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn shells_can_complete_and_programs_can_read_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(folder.path(), &["completions", "bash"]));
    expect_exit(&output, 0);
    assert!(text(&output.stdout).contains("complete -F _postrider"));
    let output = run(&mut postrider(folder.path(), &["openapi"]));
    expect_exit(&output, 0);
    let api = json(&output.stdout);
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(api["paths"]["/api/v1/events"]["post"].is_object(), "{:?}", api["paths"]);
}

// --- settings ---

/// What `postrider config` shows of one setting: value and origin.
fn setting(shown: &Value, key: &str) -> (Value, String) {
    let setting = shown.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap();
    (setting["value"].clone(), setting["origin"].as_str().unwrap().to_owned())
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = "listen = \"127.0.0.1:1001\"\ndrain_timeout = \"1m\"\nmax_in_flight = 7\nallow_private = [\"10.0.0.0/8\"]\n\
         allow_ports = [9200]\nretry_on = [408, \"520-530\"]\n";
    std::fs::write(folder.path().join("postrider.toml"), file).unwrap();
    let mut command = postrider(folder.path(), &["config", "--json", "--listen", "127.0.0.1:1003"]);
    command.env("POSTRIDER_LISTEN", "127.0.0.1:1002").env("POSTRIDER_DRAIN_TIMEOUT", "90s");
    command.env("POSTRIDER_RETRY_SCHEDULE", "1s, 500ms").env("POSTRIDER_ADMIN_TOKEN", "not to be shown");
    command.env("POSTRIDER_FINAL_ON", "507, 420-430").args(["--success-on", "304,3xx"]);
    command.env("POSTRIDER_NEW_TENANT_MAX_TOKENS", "unlimited").env("POSTRIDER_NEW_TENANT_MAX_PENDING", "5");
    let output = run(command.env("POSTRIDER_ADMIN_TOKEN", "not-to-be-shown-anywhere"));
    expect_exit(&output, 0);
    let shown = json(&output.stdout);
    let expect = |key: &str, value: Value, origin: &str| assert_eq!(setting(&shown, key), (value, origin.to_owned()));
    expect("listen", "127.0.0.1:1003".into(), "flag");
    expect("drain_timeout", "90s".into(), "env");
    expect("retry_schedule", vec!["1s", "500ms"].into(), "env");
    expect("max_in_flight", 7.into(), "file");
    expect("retry_on", serde_json::json!([408, "520-530"]), "file");
    // A variable's items are texts.
    expect("final_on", serde_json::json!(["507", "420-430"]), "env");
    expect("success_on", serde_json::json!([304, "3xx"]), "flag");
    expect("allow_private", vec!["10.0.0.0/8"].into(), "file");
    expect("allow_ports", vec![9200].into(), "file");
    expect("max_memory", "64MiB".into(), "default");
    expect("new_tenant_max_tokens", "unlimited".into(), "env");
    expect("new_tenant_max_pending", 5.into(), "env");
    expect("new_tenant_max_webhooks", 1_000.into(), "default");
    expect("retention_audit", "365d".into(), "default");
    expect("retention_figures_minutes", "2d".into(), "default");
    expect("retention_figures_hours", "90d".into(), "default");
    expect("retention_figures_days", "730d".into(), "default");
    expect("figures", true.into(), "default");
    expect("admin_token", "set".into(), "env");
    expect("master_key", "not set".into(), "default");
    assert!(!text(&output.stdout).contains("not-to-be-shown"));
}

#[test]
fn the_server_s_proxy_is_read_from_everywhere_and_its_password_is_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let url = "http://me:geheim@10.0.0.5:3128";
    let secret = folder.path().join("url");
    std::fs::write(&secret, format!("{url}\n")).unwrap();
    let secret = secret.to_str().unwrap().to_owned();
    for (variable, value) in [("POSTRIDER_PROXY", url), ("POSTRIDER_PROXY_FILE", &secret)] {
        let mut command =
            postrider(folder.path(), &["config", "--json", "--allow-hosts", "receiver,*.SVC.cluster.local."]);
        let output = run(command.env(variable, value).env("POSTRIDER_NO_PROXY", "corp.example, *.lan,10.0.0.0/8"));
        expect_exit(&output, 0);
        let shown = json(&output.stdout);
        assert_eq!(setting(&shown, "proxy"), ("http://…@10.0.0.5:3128".into(), "env".to_owned()));
        assert_eq!(setting(&shown, "no_proxy").0, serde_json::json!(["corp.example", "*.lan", "10.0.0.0/8"]));
        let hosts = serde_json::json!(["receiver", "*.svc.cluster.local"]);
        assert_eq!(setting(&shown, "allow_hosts"), (hosts, "flag".to_owned()));
    }
    for (variable, value, reason) in [
        ("POSTRIDER_PROXY", "http://me:geheim@10.0.0.5", "proxy (env): url must name the port"),
        ("POSTRIDER_PROXY", "me:geheim@10.0.0.5:3128", "must begin with http://"),
        ("POSTRIDER_PROXY", "http://me:geheim/@10.0.0.5:3128", "%2F"),
        ("POSTRIDER_NO_PROXY", "a*.example", "is no host"),
        ("POSTRIDER_ALLOW_HOSTS", "*", "allow_private_destinations"),
        ("POSTRIDER_ALLOW_HOSTS", "localhost", "127.0.0.0/8"),
    ] {
        let output = run(postrider(folder.path(), &["config"]).env(variable, value));
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(reason) && !error.contains("geheim"), "{error}");
    }
}

#[test]
fn origins_of_pages_are_named_one_by_one_wherever_they_are_set() {
    let folder = tempfile::tempdir().unwrap();
    let origins = serde_json::json!(["https://console.example", "http://localhost:8080"]);
    let flag = ["config", "--json", "--cors-origins", "HTTPS://Console.example:443/,http://localhost:8080"];
    let shown = json(&run(&mut postrider(folder.path(), &flag)).stdout);
    assert_eq!(setting(&shown, "cors_origins"), (origins.clone(), "flag".to_owned()));
    let mut command = postrider(folder.path(), &["config", "--json"]);
    let output = run(command.env("POSTRIDER_CORS_ORIGINS", "https://console.example, http://localhost:8080"));
    assert_eq!(setting(&json(&output.stdout), "cors_origins"), (origins, "env".to_owned()));
    for (origin, reason) in
        [("*", "name the origins"), ("https://console.example/app", "no path"), ("null", "sandboxed")]
    {
        let output = run(postrider(folder.path(), &["config"]).env("POSTRIDER_CORS_ORIGINS", origin));
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{origin}: {error}");
    }
}

#[test]
fn a_status_in_two_lists_of_the_server_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, reason) in [
        (["--retry-on", "408,425", "--final-on", "4xx"], "final_on (flag): 408 is in retry_on as well"),
        (["--retry-on", "410", "--final-on", "409"], "retry_on (flag): 410 says that the receiver is gone"),
        (["--retry-on", "42", "--final-on", "409"], "\"42\" is no status"),
    ] {
        let output = run(postrider(folder.path(), &["config"]).args(arguments));
        assert!(!output.status.success() && text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
}

#[test]
fn the_table_of_settings_is_aligned_and_plain_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(postrider(folder.path(), &["config"]).env("POSTRIDER_LOG_FORMAT", "json"));
    expect_exit(&output, 0);
    let table = text(&output.stdout);
    assert!(!table.contains('\x1b') && !table.contains('\t'), "{table}");
    let column = table.lines().next().unwrap().find("VALUE").unwrap();
    let line = table.lines().find(|line| line.starts_with("log_format ")).unwrap();
    assert!(line[column..].starts_with("json ") && line.ends_with("env"), "{table}");
}

#[test]
fn the_example_file_has_every_setting_at_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = json(&run(&mut postrider(folder.path(), &["config", "--json"])).stdout);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/postrider.example.toml");
    let output = run(&mut postrider(folder.path(), &["config", "--json", "--config", example]));
    expect_exit(&output, 0);
    let shown = json(&output.stdout);
    for default in defaults.as_array().unwrap() {
        let key = default["key"].as_str().unwrap();
        let is_secret = matches!(key, "admin_token" | "master_key" | "decnet_jwt_secret");
        let origin = if is_secret { "default" } else { "file" };
        assert_eq!(setting(&shown, key), (default["value"].clone(), origin.to_owned()), "{key}");
    }
}

#[test]
fn a_mistake_in_the_settings_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    let config = |file: &str, env: (&str, &str)| {
        std::fs::write(&path, file).unwrap();
        let output = run(postrider(folder.path(), &["config"]).env(env.0, env.1));
        expect_exit(&output, 2);
        text(&output.stderr)
    };
    let none = ("POSTRIDER_UNUSED", "");
    let unknown = config("log = \"info\"\nlisten_to = \"127.0.0.1:1\"\n", none);
    assert!(
        unknown.contains("postrider.toml") && unknown.contains("line 2") && unknown.contains("listen_to"),
        "{unknown}"
    );
    let wrong = config("max_memory = \"much\"\n", none);
    assert!(wrong.contains("line 1") && wrong.contains("no size"), "{wrong}");
    let secret = config("admin_token = \"x\"\n", none);
    assert!(secret.contains("POSTRIDER_ADMIN_TOKEN"), "{secret}");
    let zero = config("max_in_flight = 1\n", none);
    assert!(zero.contains("max_in_flight (file): must be at least 3"), "{zero}");
    let named = config("node_name = \"a\\u0000b\"\n", none);
    assert!(named.contains("node_name (file): must not have control characters"), "{named}");
    for (agent, reason) in [
        ("a\\r\\nX: y", "must be visible ASCII"),
        ("ü", "must be visible ASCII"),
        (" a", "must be visible ASCII"),
        (&*"a".repeat(257), "has 257 bytes, the limit is 256"),
    ] {
        let refused = config(&format!("user_agent = \"{agent}\"\n"), none);
        assert!(refused.contains(&format!("user_agent (file): {reason}")), "{refused}");
    }
    let variable = config("", ("POSTRIDER_NATIVE_ROOTS", "perhaps"));
    assert!(variable.contains("POSTRIDER_NATIVE_ROOTS") && variable.contains("true or false"), "{variable}");
    let count = config("", ("POSTRIDER_NEW_TENANT_MAX_TOKENS", "many"));
    assert!(count.contains("POSTRIDER_NEW_TENANT_MAX_TOKENS") && count.contains("no count"), "{count}");
    let unlimited = config("", ("POSTRIDER_MAX_IN_FLIGHT", "unlimited"));
    assert!(unlimited.contains("POSTRIDER_MAX_IN_FLIGHT"), "{unlimited}");
    let beyond = config("new_tenant_max_tokens = 1000000001\n", none);
    assert!(beyond.contains("new_tenant_max_tokens (file): must be at most 1000000000"), "{beyond}");
    let key = config("", ("POSTRIDER_MASTER_KEY", "short"));
    assert!(key.contains("POSTRIDER_MASTER_KEY") && key.contains("32 bytes"), "{key}");
    let source = config("[[source]]\nname = \"a\"\nkind = \"decnet-bus\"\nsockett = \"b\"\n", none);
    assert!(source.contains("source (file): `a`: unknown field `sockett`"), "{source}");
    let table = config("[source]\nname = \"a\"\n", none);
    assert!(table.contains("line 1") && table.contains("source"), "{table}");
    let missing = config("", ("POSTRIDER_CONFIG", "/nowhere/postrider.toml"));
    assert!(missing.contains("/nowhere/postrider.toml"), "{missing}");
}

// --- the tour ---

#[test]
fn an_event_goes_from_the_command_line_to_a_receiver() {
    let server = Server::start();
    let (mut receiver, url) = listen(server.folder.path(), "127.0.0.1:0", &["--secret", SECRET, "--events", "1"]);
    let arguments = ["webhook", "create", "--name", "siem", "--url", &url, "--topic", "attacker.>", "--secret", SECRET];
    let webhook = server.ask(&arguments);
    assert_eq!(webhook["secret"], SECRET);
    assert!(webhook["standard_secret"].as_str().unwrap().starts_with("whsec_"));

    let payload = r#"{"port":22,"score":0.10}"#;
    let sent =
        server.ask(&["event", "send", "attacker.login", payload, "--type", "login", "--id", "e-1", "--ts", "1.5"]);
    assert_eq!((&sent["id"], &sent["deliveries"]), (&"e-1".into(), &1.into()));

    let line = receiver.line();
    assert!(line.contains(payload), "the payload's digits were changed: {line}");
    let event = json(line.as_bytes());
    assert_eq!(event["topic"], "attacker.login");
    assert_eq!(event["type"], "login");
    assert_eq!(event["id"], "e-1");
    assert_eq!(event["ts"], "1970-01-01T00:00:01.500000+00:00");
    assert_eq!(event["verified"], true);
    assert_eq!(event["headers"]["x-decnet-event-topic"], "attacker.login");
    assert_eq!(receiver.exit_code(), Some(0));

    let delivery = server.delivery("siem", "delivered");
    assert_eq!((&delivery["event_id"], &delivery["attempts"]), (&"e-1".into(), &1.into()));
    let again = server.ask(&["event", "send", "attacker.login", payload, "--type", "login", "--id", "e-1"]);
    assert_eq!(again["duplicate"], true);
    let shown = run(&mut server.command(&["event", "show", "e-1"]));
    expect_exit(&shown, 0);
    assert!(text(&shown.stdout).contains("\"score\": 0.10"), "{}", text(&shown.stdout));
    let listed = run(&mut server.command(&["event", "list", "--topic", "attacker.*", "--since", "1h"]));
    assert!(text(&listed.stdout).contains("e-1"), "{}", text(&listed.stdout));
}

#[test]
fn keys_come_from_the_environment_and_are_changed_by_flags_alone() {
    let server = Server::start();
    let standard = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let with_keys = |mut command: Command| {
        command.env("POSTRIDER_SECRET", SECRET).env("POSTRIDER_STANDARD_SECRET", standard);
        command
    };
    let listen = ["listen", "--json", "--listen", "127.0.0.1:0", "--events", "1"];
    let mut receiver = Running::start(with_keys(postrider(server.folder.path(), &listen)));
    let url = receiver.json()["listening"].as_str().unwrap().to_owned();
    let create = ["webhook", "create", "--name", "siem", "--url", &url, "--topic", ">", "--json"];
    let created = run(&mut with_keys(server.command(&create)));
    expect_exit(&created, 0);
    let created = json(&created.stdout);
    assert_eq!((&created["secret"], &created["standard_secret"]), (&SECRET.into(), &standard.into()));
    server.ask(&["event", "send", "a.b"]);
    assert_eq!(receiver.json()["signatures"], serde_json::json!({ "decnet": "ok", "standard": "ok" }));

    let unchanged = run(&mut with_keys(server.command(&["webhook", "update", "siem"])));
    expect_exit(&unchanged, 2);
    assert!(text(&unchanged.stderr).contains("nothing to change"), "{}", text(&unchanged.stderr));
    for command in [&["listen", "--help"][..], &["webhook", "create", "--help"]] {
        let help = text(&run(&mut with_keys(postrider(server.folder.path(), command))).stdout);
        assert!(help.contains("POSTRIDER_SECRET") && help.contains("POSTRIDER_STANDARD_SECRET"), "{help}");
        assert!(help.contains("process list") && !help.contains(SECRET) && !help.contains(standard), "{help}");
    }
}

#[test]
fn a_dead_delivery_is_retried_when_its_receiver_is_well_again() {
    let server = Server::start();
    let (mut broken, url) = listen(server.folder.path(), "127.0.0.1:0", &["--fail", "404", "--events", "1"]);
    server.ask(&["webhook", "create", "--name", "soar", "--url", &url, "--topic", ">", "--secret", SECRET]);
    server.ask(&["event", "send", "order.paid", "[1]"]);
    assert_eq!(broken.json()["status"], 404);
    assert_eq!(broken.exit_code(), Some(0));

    let delivery = server.delivery("soar", "dead");
    let id = delivery["id"].as_str().unwrap();
    let shown = run(&mut server.command(&["delivery", "show", id]));
    expect_exit(&shown, 0);
    assert!(text(&shown.stdout).contains("non-retryable 404"), "{}", text(&shown.stdout));

    let address = url.strip_prefix("http://").unwrap();
    let (mut receiver, _) = listen(server.folder.path(), address, &["--secret", SECRET]);
    assert_eq!(server.ask(&["delivery", "retry", id])["state"], "pending");
    assert_eq!(receiver.json()["verified"], true);
    let delivery = server.delivery("soar", "delivered");
    assert_eq!((&delivery["id"], &delivery["attempts"]), (&id.into(), &2.into()));
    let refused = run(&mut server.command(&["delivery", "retry", id]));
    expect_exit(&refused, 1);
    let refused = run(&mut server.command(&["delivery", "discard", id]));
    expect_exit(&refused, 1);
}

#[test]
fn many_deliveries_are_made_again_or_given_up_by_jobs() {
    let mut server = Server::start();
    let (broken, url) = listen(server.folder.path(), "127.0.0.1:0", &["--fail", "404", "--events", "3"]);
    server.ask(&["webhook", "create", "--name", "soar", "--url", &url, "--topic", "order.>", "--secret", SECRET]);
    for id in ["e-1", "e-2", "e-3"] {
        server.ask(&["event", "send", "order.paid", "[1]", "--id", id]);
    }
    assert_eq!(broken.exit_code(), Some(0));
    let give_up = Instant::now() + WAIT;
    while server.ask(&["delivery", "list", "--state", "dead"])["items"].as_array().map(Vec::len) != Some(3) {
        assert!(Instant::now() < give_up, "not all died");
    }
    let refused = run(&mut server.command(&["delivery", "discard", "--all"]));
    expect_exit(&refused, 2);
    assert!(text(&refused.stderr).contains("--reason"), "{}", text(&refused.stderr));

    let address = url.strip_prefix("http://").unwrap();
    let (mut receiver, _) = listen(server.folder.path(), address, &["--secret", SECRET]);
    let started = run(&mut server.command(&["replay", "start", "soar", "--since", "1h", "--rate", "500", "--follow"]));
    expect_exit(&started, 0);
    let shown = text(&started.stdout);
    assert!(shown.contains("100.0 %") && shown.contains("500 a second") && shown.contains("done"), "{shown}");
    for _ in 0..3 {
        assert_eq!(receiver.json()["verified"], true);
    }
    let again = server.ask(&["delivery", "retry", "--all", "--state", "delivered", "--webhook", "soar", "--follow"]);
    assert_eq!((&again["state"], &again["changed"]), (&"done".into(), &3.into()));
    assert_eq!(server.ask(&["event", "resend", "e-2", "--webhook", "soar"])["id"], "e-2");
    let discarded = server.ask(&["delivery", "discard", "--all", "--reason", "known", "--follow"]);
    assert_eq!((&discarded["action"], &discarded["changed"]), (&"discard".into(), &0.into()));
    let listed = server.ask(&["replay", "list", "--webhook", "soar"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let job = listed["items"][0]["uuid"].as_str().unwrap();
    assert_eq!(server.ask(&["replay", "show", job])["states"], json(br#"["delivered"]"#));
    expect_exit(&run(&mut server.command(&["replay", "cancel", job])), 1);

    // The same request, twice.
    let send = ["event", "send", "order.paid", "[2]", "--idempotency-key", "once"];
    let (first, second) = (server.ask(&send), server.ask(&send));
    assert_eq!((&second["id"], &second["duplicate"]), (&first["id"], &true.into()));
    let lines = server.folder.path().join("events.ndjson");
    std::fs::write(&lines, "{\"topic\":\"a\"}\n{\"topic\":\"b\"}\n").unwrap();
    let send = ["event", "send", "--ndjson", lines.to_str().unwrap(), "--idempotency-key", "file"];
    assert_eq!(server.ask(&send)["accepted"], 2);
    assert_eq!(server.ask(&send)["duplicates"], 2);

    // The folder of a server is compacted when that is stopped.
    let data = server.folder.path().join("postrider-data");
    let compact = ["compact", "--json", "--data", data.to_str().unwrap()];
    let busy = run(&mut server.command(&compact));
    expect_exit(&busy, 1);
    assert!(text(&busy.stderr).contains("in use"), "{}", text(&busy.stderr));
    server.running.terminate();
    let stopped = std::mem::replace(&mut server.running, Running::start(postrider(&data, &["--version"])));
    assert_eq!(stopped.exit_code(), Some(0));
    let compacted = run(&mut server.command(&compact));
    expect_exit(&compacted, 0);
    assert!(json(&compacted.stdout)["bytes_after"].as_u64() > Some(4_096));
}

#[test]
fn a_webhook_is_tested_changed_and_deleted_by_its_name() {
    let server = Server::start();
    let (receiver, url) = listen(server.folder.path(), "127.0.0.1:0", &["--fail", "500", "--events", "1"]);
    let arguments =
        ["webhook", "create", "--name", "n8n", "--url", &url, "--simple-event", "SystemStatus", "--timeout", "2s"];
    let created = run(&mut server.command(&arguments));
    expect_exit(&created, 0);
    assert!(text(&created.stdout).contains("whsec_"), "{}", text(&created.stdout));
    assert!(text(&created.stderr).contains("insecure_url"), "{}", text(&created.stderr));

    let test = run(&mut server.command(&["webhook", "test", "n8n"]));
    expect_exit(&test, 1);
    assert!(text(&test.stdout).contains("http 500"), "{}", text(&test.stdout));
    assert_eq!(receiver.exit_code(), Some(0));
    let (well, _) = listen(server.folder.path(), url.strip_prefix("http://").unwrap(), &["--events", "1"]);
    let test = run(&mut server.command(&["webhook", "test", "n8n"]));
    expect_exit(&test, 0);
    drop(well);

    assert_eq!(server.ask(&["webhook", "resume", "n8n"])["name"], "n8n");
    let paused = server.ask(&["webhook", "update", "n8n", "--paused", "--max-age", "2h"]);
    assert_eq!((&paused["waiting_for"], &paused["max_age_s"]), (&"paused".into(), &7_200.into()));
    let refused = run(&mut server.command(&["webhook", "resume", "n8n"]));
    expect_exit(&refused, 1);
    assert!(text(&refused.stderr).contains("the webhook is paused"), "{}", text(&refused.stderr));
    let on = server.ask(&["webhook", "update", "n8n", "--paused=false", "--max-age", "none"]);
    assert_eq!((&on["waiting_for"], &on["max_age_s"]), (&Value::Null, &Value::Null));
    let changed = server.ask(&["webhook", "update", "n8n", "--retry-schedule", "1s,500ms", "--disable"]);
    assert_eq!(changed["retry_schedule"], Value::from(vec![1.0, 0.5]));
    assert_eq!((&changed["enabled"], &changed["timeout_s"]), (&false.into(), &2.into()));
    let changed = server.ask(&["webhook", "update", "n8n", "--retry-schedule", "default", "--enable"]);
    assert_eq!((&changed["enabled"], &changed["retry_schedule"]), (&true.into(), &Value::Null));
    let answers = ["--retry-on", "408,5xx", "--final-on", "425", "--success-on", "none"];
    let pattern = r#"{"body": {"ok": [true]}}"#;
    let update = [&["webhook", "update", "n8n"], &answers[..], &["--success-when", pattern]].concat();
    let changed = server.ask(&update);
    assert_eq!(
        (&changed["retry_on"], &changed["final_on"], &changed["success_on"], &changed["success_when"]["body"]["ok"]),
        (
            &serde_json::json!([408, "5xx"]),
            &serde_json::json!([425]),
            &serde_json::json!([]),
            &serde_json::json!([true])
        )
    );
    let shown = run(&mut server.command(&["webhook", "show", "n8n"]));
    assert!(text(&shown.stdout).contains("408, 5xx"), "{}", text(&shown.stdout));
    let wrong = run(&mut server.command(&["webhook", "update", "n8n", "--topic", "a..b"]));
    expect_exit(&wrong, 1);
    assert!(text(&wrong.stderr).contains("topic_patterns"), "{}", text(&wrong.stderr));
    expect_exit(&run(&mut server.command(&["webhook", "update", "n8n"])), 2);

    let unasked = run(&mut server.command(&["webhook", "delete", "n8n"]));
    expect_exit(&unasked, 2);
    assert!(text(&unasked.stderr).contains("--yes"), "{}", text(&unasked.stderr));
    expect_exit(&run(&mut server.command(&["webhook", "delete", "n8n", "--yes"])), 0);
    let gone = run(&mut server.command(&["webhook", "show", "n8n"]));
    expect_exit(&gone, 1);
    assert!(text(&gone.stderr).contains("there is no webhook \"n8n\""), "{}", text(&gone.stderr));
}

#[test]
fn many_events_are_sent_from_a_file_and_from_a_pipe() {
    let server = Server::start();
    let events: String =
        (0..2_500).fold(String::new(), |lines, n| lines + &format!("{{\"topic\":\"load.test\",\"id\":\"e-{n}\"}}\n\n"));
    std::fs::write(server.folder.path().join("events.ndjson"), &events).unwrap();
    let sent = server.ask(&["event", "send", "--ndjson", "events.ndjson"]);
    assert_eq!((&sent["accepted"], &sent["duplicates"]), (&2_500.into(), &0.into()));

    let mut child = server.command(&["event", "send", "--ndjson", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let more = "{\"topic\":\"load.test\",\"id\":\"e-7\"}\n{\"topic\":\"load.test\",\"id\":\"e-new\"}";
    child.stdin.take().unwrap().write_all(more.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    expect_exit(&output, 0);
    assert!(text(&output.stdout).starts_with("1 accepted, 1 duplicate"), "{}", text(&output.stdout));

    let broken = events.replace("e-1500\"", "e-1500\", \"tpoic\": 1").replace("e-", "f-");
    std::fs::write(server.folder.path().join("broken.ndjson"), broken).unwrap();
    let output = run(&mut server.command(&["event", "send", "--ndjson", "broken.ndjson"]));
    expect_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("lines 2001 to 3999") && error.contains("events[500]"), "{error}");
    assert!(error.contains("1000 events were accepted") && error.contains("tail -n +2001"), "{error}");
}

#[test]
fn a_token_may_do_what_its_scopes_say_until_it_is_revoked() {
    let server = Server::start();
    let created = server.ask(&["token", "create", "--name", "fleet", "--scope", "publish", "--expires-in", "1d"]);
    let token = created["token"].as_str().unwrap();
    let as_fleet = |arguments: &[&str]| run(server.command(arguments).env("POSTRIDER_TOKEN", token));
    expect_exit(&as_fleet(&["event", "send", "a.b"]), 0);
    let forbidden = as_fleet(&["webhook", "list"]);
    expect_exit(&forbidden, 1);
    assert!(text(&forbidden.stderr).contains("token create --scope"), "{}", text(&forbidden.stderr));
    let listed = run(&mut server.command(&["token", "list"]));
    assert!(text(&listed.stdout).contains("fleet") && !text(&listed.stdout).contains(token));
    server.ask(&["token", "revoke", created["uuid"].as_str().unwrap()]);
    expect_exit(&as_fleet(&["event", "send", "a.b"]), 1);
}

#[test]
fn a_tenant_has_its_own_webhooks_and_its_acts_are_listed() {
    let server = Server::start();
    let made = server.ask(&["tenant", "create", "blue", "--max-webhooks", "1", "--description", "\u{202e}blue"]);
    assert_eq!(made["quotas"]["max_webhooks"], 1);
    let defaults = object!({
        "max_webhooks": 1, "max_events_per_s": 1_000, "max_pending": 1_000_000, "max_tokens": 100,
        "max_stored_bytes": 10_u64 << 30,
    });
    assert_eq!(made["quotas"], defaults, "the others are the server's for new tenants");
    let webhook = ["webhook", "create", "--name", "siem", "--url", "http://127.0.0.1:1999", "--topic", "a", "--tenant"];
    let refused = run(&mut server.command(&[&webhook[..], &["nobody"]].concat()));
    expect_exit(&refused, 1);
    assert!(text(&refused.stderr).contains("there is no such tenant"), "{}", text(&refused.stderr));
    server.ask(&[&webhook[..], &["blue"]].concat());
    assert_eq!(server.ask(&["webhook", "list"]), serde_json::json!([]));
    let listed = run(server.command(&["webhook", "list", "--json"]).env("POSTRIDER_TENANT", "blue"));
    assert_eq!(json(&listed.stdout)[0]["name"], "siem");

    let shown = run(&mut server.command(&["tenant", "show", "blue"]));
    expect_exit(&shown, 0);
    let shown = text(&shown.stdout);
    assert!(shown.contains("1 of 1") && shown.contains("\\u{202e}blue") && !shown.contains('\u{202e}'), "{shown}");
    let changed = server.ask(&["tenant", "update", "blue", "--max-webhooks", "unlimited"]);
    assert_eq!(changed["quotas"]["max_webhooks"], Value::Null);
    let quotas = ["--max-stored-bytes", "20GiB", "--max-tokens", "unlimited"];
    let changed = server.ask(&[&["tenant", "update", "blue"], &quotas[..]].concat());
    assert_eq!(
        (&changed["quotas"]["max_stored_bytes"], &changed["quotas"]["max_tokens"]),
        (&(20_u64 << 30).into(), &Value::Null)
    );
    let shown = text(&run(&mut server.command(&["tenant", "show", "blue"])).stdout);
    assert!(shown.contains("0B of 20GiB") && shown.contains("0 of unlimited"), "{shown}");
    let none = ["--max-stored-bytes", "unlimited", "--max-events-per-s", "unlimited"];
    let made = server.ask(&[&["tenant", "create", "green"], &none[..]].concat());
    assert_eq!(made["quotas"]["max_stored_bytes"], Value::Null);
    expect_exit(&run(&mut server.command(&["tenant", "update", "blue", "--max-stored-bytes", "much"])), 2);
    let table = text(&run(&mut server.command(&["tenant", "list"])).stdout);
    assert!(table.contains("default") && table.contains("unlimited"), "{table}");

    let kept = run(&mut server.command(&["tenant", "delete", "blue", "--yes"]));
    expect_exit(&kept, 1);
    assert!(text(&kept.stderr).contains("1 webhooks"), "{}", text(&kept.stderr));
    expect_exit(&run(&mut server.command(&["tenant", "delete", "blue"])), 2);
    server.ask(&["tenant", "delete", "blue", "--yes", "--force"]);
    let acts = server.ask(&["audit", "list", "--action", "tenant"]);
    let actions: Vec<_> = acts["items"].as_array().unwrap().iter().map(|act| act["action"].clone()).collect();
    assert_eq!(actions, ["tenant.delete", "tenant.create", "tenant.update", "tenant.update", "tenant.create"]);
    let table = text(&run(&mut server.command(&["audit", "list", "--limit", "1"])).stdout);
    assert!(table.contains("tenant.delete") && table.contains("127.0.0.1"), "{table}");
}

#[test]
fn a_client_without_a_server_or_a_good_token_is_told_what_to_do() {
    let server = Server::start();
    let nobody = run(postrider(server.folder.path(), &["webhook", "list"]).env("POSTRIDER_SERVER", &server.url));
    expect_exit(&nobody, 2);
    assert!(text(&nobody.stderr).contains("POSTRIDER_TOKEN"), "{}", text(&nobody.stderr));
    let stranger = run(server.command(&["webhook", "list"]).env("POSTRIDER_TOKEN", "pr_made-up"));
    expect_exit(&stranger, 1);
    assert!(text(&stranger.stderr).contains("does not know this token"), "{}", text(&stranger.stderr));
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lost = run(&mut server.command(&["webhook", "list", "--server", &format!("http://127.0.0.1:{port}")]));
    expect_exit(&lost, 1);
    let error = text(&lost.stderr);
    assert!(error.contains("cannot reach the server") && error.contains("postrider serve"), "{error}");
    let by_name =
        run(&mut server.command(&["webhook", "list", "--server", &server.url.replace("127.0.0.1", "localhost")]));
    expect_exit(&by_name, 0);
}

// --- running and stopping ---

#[test]
fn sigterm_ends_a_server_well_and_its_folder_is_taken_until_then() {
    let server = Server::start();
    let output = run(&mut serve(server.folder.path()));
    expect_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("in use") && error.contains("--data"), "{error}");
    let address = server.url.strip_prefix("http://").unwrap();
    let other = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(other.path(), &["serve", "--listen", address]));
    expect_exit(&output, 1);
    assert!(text(&output.stderr).contains("--listen"), "{}", text(&output.stderr));

    server.ask(&["event", "send", "kept.event", "--id", "kept"]);
    server.running.terminate();
    let Server { running, token, folder, .. } = server;
    assert_eq!(running.exit_code(), Some(0));
    let mut running = Running::start(serve(folder.path()));
    let started = running.json();
    assert_eq!(started["new_admin_token"], Value::Null, "the token is told once");
    let server = Server { running, url: started["url"].as_str().unwrap().to_owned(), token, folder };
    assert_eq!(server.ask(&["event", "show", "kept"])["topic"], "kept.event");
}

#[test]
fn the_first_start_shows_the_admin_token_to_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = postrider(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--log", "off"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("http://127.0.0.1:")));
    assert!(lines.any(|line| line.trim_start().starts_with("export POSTRIDER_TOKEN=")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_receiver_with_another_secret_shows_that_the_signature_is_wrong() {
    let server = Server::start();
    let mut command =
        postrider(server.folder.path(), &["listen", "--listen", "127.0.0.1:0", "--events", "1", "--headers"]);
    command.args(["--secret", "another secret altogether"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    let url = notes.next().unwrap().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    server.ask(&["webhook", "create", "--name", "w", "--url", &url, "--topic", ">", "--secret", SECRET]);
    server.ask(&["event", "send", "a.b", "{\"deep\":[1]}"]);
    let output = child.wait_with_output().unwrap();
    expect_exit(&output, 0);
    let printed = text(&output.stdout);
    assert!(printed.contains("✗ decnet (other key: "), "{printed}");
    assert!(printed.contains("a.b") && printed.contains("x-decnet-signature: sha256="), "{printed}");
    assert!(printed.contains("  {\n    \"deep\": [\n"), "{printed}");
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let config = || postrider(folder.path(), &["config", "--drain-timeout", "1m"]);
    let coloured = on_terminal(config());
    assert!(coloured.contains("\x1b[32mflag\x1b[0m") && coloured.contains("\x1b[2mdefault\x1b[0m"), "{coloured:?}");
    let mut plain = config();
    plain.env("NO_COLOR", "1");
    let plain = on_terminal(plain);
    assert!(plain.contains("flag") && !plain.contains('\x1b'), "{plain:?}");
    let mut json = config();
    json.arg("--json");
    assert!(!on_terminal(json).contains('\x1b'));
}

/// Answers the first request with this status and body.
fn answering_once(status: u16, body: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut request = BufReader::new(&stream);
        let mut line = String::new();
        while request.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let length = body.len();
        write!(&stream, "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    });
    url
}

#[test]
fn what_an_attacker_wrote_cannot_speak_to_the_operator_s_terminal() {
    // Sets the title, clears the screen (as C1 too), hides, and turns the order of letters around.
    const HOSTILE: &str = "\x1b]0;pwned\x07\x1b[2J\u{9b}2J\x1b[8m\u{202e}\u{7f}";
    const OBEYED: [&str; 7] = ["\x1b]", "\x07", "\x1b[2J", "\u{9b}", "\x1b[8m", "\u{202e}", "\u{7f}"];
    #[track_caller]
    fn expect_harmless(shown: &str, spelt_out: usize) {
        for obeyed in OBEYED {
            assert!(!shown.contains(obeyed), "{obeyed:?} in {shown:?}");
        }
        assert!(shown.contains("\x1b[0m"), "the terminal has its colours: {shown:?}");
        assert!(shown.matches("\\u{202e}").count() >= spelt_out, "{shown:?}");
    }

    let server = Server::start();
    let url = answering_once(404, "\x1b]0;pwned\x07\x1b[2J\u{9b}2J\x1b[8m\u{202e}\u{7f}");
    server.ask(&["webhook", "create", "--name", "siem", "--url", &url, "--topic", ">"]);
    let payload = format!("{{\"user\":{}}}", serde_json::to_string(HOSTILE).unwrap());
    let sent = ["event", "send", "a.b", &payload, "--type", HOSTILE, "--ts", HOSTILE, "--id", "e-1"];
    server.ask(&sent);
    let delivery = server.delivery("siem", "dead");
    let on_terminal_of = |arguments: &[&str]| on_terminal(server.command(arguments));
    expect_harmless(&on_terminal_of(&["event", "list"]), 1);
    // Type, time, payload.
    expect_harmless(&on_terminal_of(&["event", "show", "e-1"]), 3);
    expect_harmless(&on_terminal_of(&["delivery", "list"]), 0);
    // Type and the receiver's answer.
    expect_harmless(&on_terminal_of(&["delivery", "show", delivery["id"].as_str().unwrap()]), 2);
    // Programs get it as it is.
    assert_eq!(server.ask(&["event", "show", "e-1"])["type"], HOSTILE);
}

#[test]
fn a_receiver_shows_hostile_requests_without_obeying_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = postrider(
        folder.path(),
        &["listen", "--listen", "127.0.0.1:0", "--events", "2", "--headers", "--secret", SECRET],
    );
    command.stderr(Stdio::piped());
    let mut receiver = Running::start(command);
    let note = BufReader::new(receiver.child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    let url = note.strip_prefix("listening on ").unwrap();
    let event =
        "{\"topic\":\"a\\nb\",\"type\":\"\\u001b[2J\",\"id\":\"\\u001b]0;x\\u0007\",\"payload\":\"\u{9b}2J\u{202e}\"}";
    assert_eq!(post(url, event.as_bytes(), WAIT).unwrap(), 200);
    assert_eq!(post(url, b"first\n\x1b[2Jsecond\r\x7f", WAIT).unwrap(), 200);
    let mut shown = String::new();
    receiver.lines.read_to_string(&mut shown).unwrap();
    assert!(!shown.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{shown:?}");
    for spelt_out in [
        "a\\nb  \\u{1b}[2J",
        "id \\u{1b}]0;x\\u{7}",
        "\"\\u{9b}2J\\u{202e}\"",
        "  first\n  \\u{1b}[2Jsecond\\r\\u{7f}\n",
    ] {
        assert!(shown.contains(spelt_out), "{spelt_out} in {shown}");
    }
}

#[test]
fn a_receiver_can_be_slow_and_fail_by_chance() {
    let folder = tempfile::tempdir().unwrap();
    let (_slow, url) = listen(folder.path(), "127.0.0.1:0", &["--delay", "300ms"]);
    let began_at = Instant::now();
    assert_eq!(post(&url, b"{}", WAIT).unwrap(), 200);
    assert!(began_at.elapsed() >= Duration::from_millis(300), "{:?}", began_at.elapsed());

    let (_chancy, url) = listen(folder.path(), "127.0.0.1:0", &["--fail-rate", "0.5"]);
    // That 64 fair tosses fall on one side happens once in 2^63 runs.
    let statuses: Vec<u16> = (0..64).map(|_| post(&url, b"{}", WAIT).unwrap()).collect();
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    for (share, fail, status) in [("1", "418", 418), ("0", "418", 200)] {
        let (_receiver, url) = listen(folder.path(), "127.0.0.1:0", &["--fail-rate", share, "--fail", fail]);
        assert_eq!(post(&url, b"{}", WAIT).unwrap(), status, "--fail-rate {share} --fail {fail}");
    }
    let wrong = run(&mut postrider(folder.path(), &["listen", "--fail-rate", "1.5"]));
    expect_exit(&wrong, 2);
    assert!(text(&wrong.stderr).contains("must be from 0 to 1"), "{}", text(&wrong.stderr));
}

/// Posts `body` to `url` and returns the status of the answer; the error is that of a timeout.
fn post(url: &str, body: &[u8], timeout: Duration) -> std::io::Result<u16> {
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap())?;
    write!(stream, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split(' ').nth(1).unwrap().parse().unwrap())
}

#[test]
fn a_receiver_whose_output_nobody_reads_answers_later_instead_of_filling_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (mut receiver, url) = listen(folder.path(), "127.0.0.1:0", &[]);
    // More than a pipe holds.
    let body = vec![b'x'; 256 * 1024];
    let unanswered = (0..40).find(|_| post(&url, &body, Duration::from_secs(2)).is_err());
    assert!(unanswered.is_some(), "every request was taken in though none was read");
    let late = std::thread::spawn({
        let body = body.clone();
        move || post(&url, &body, WAIT).unwrap()
    });
    for _ in 0..=unanswered.unwrap() {
        assert_eq!(receiver.json()["body"].as_str().unwrap().len(), body.len());
    }
    assert_eq!(late.join().unwrap(), 200);
}

#[test]
fn the_demonstration_delivers_and_verifies_everything() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(folder.path(), &["demo", "--events", "20", "--rate", "100", "--json"]));
    expect_exit(&output, 0);
    let printed = text(&output.stdout);
    let lines: Vec<Value> = printed.lines().map(|line| json(line.as_bytes())).collect();
    let summary = lines.last().unwrap();
    assert_eq!((&summary["accepted"], &summary["complete"]), (&20.into(), &true.into()));
    assert_eq!(summary["delivered"], summary["owed"]);
    let taken = lines.iter().filter(|line| line["status"] == 200 && line["verified"] == true).count();
    assert_eq!(summary["delivered"], taken);
    assert!(lines.iter().any(|line| line["status"] == 503), "the flaky receiver refused nothing");
}

#[test]
fn ctrl_c_ends_the_demonstration_with_its_sum() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Running::start(postrider(folder.path(), &["demo", "--rate", "50", "--json"]));
    let addresses = demo.json();
    assert!(addresses["server"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{addresses}");
    for _ in 0..10 {
        assert_eq!(demo.json()["verified"], true);
    }
    demo.signal(rustix::process::Signal::INT);
    let mut last = String::new();
    for line in demo.lines.by_ref().lines() {
        last = line.unwrap();
    }
    let summary = json(last.as_bytes());
    assert_eq!((&summary["complete"], &summary["unverified"]), (&true.into(), &0.into()), "{summary}");
    assert!(summary["delivered"].as_u64().unwrap() > 5 && summary["delivered"] == summary["owed"], "{summary}");
    assert_eq!(demo.exit_code(), Some(0));
}

// --- measuring ---

#[test]
fn a_benchmark_names_its_parts_and_measures_the_one_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let help = text(&run(&mut postrider(folder.path(), &["bench", "--help"])).stdout);
    for part in ["throughput", "single", "latency", "isolation", "tenants", "fan-out", "backlog", "patterns"] {
        assert!(help.contains(&format!("- {part}:")), "{part} in {help}");
    }
    let output = run(&mut postrider(folder.path(), &["bench", "--quick", "--only", "patterns", "--json"]));
    expect_exit(&output, 0);
    let report = json(&output.stdout);
    assert_eq!(report["quick"], true);
    let [figure] = &report["figures"].as_array().unwrap()[..] else { panic!("one figure: {report}") };
    assert_eq!((&figure["name"], &figure["unit"]), (&"one topic against 100,000 patterns".into(), &"µs".into()));
    let (value, most) = (figure["value"].as_f64().unwrap(), figure["at_most"].as_f64().unwrap());
    assert!(value > 0.0 && figure["at_least"].is_null(), "{figure}");
    assert_eq!(figure["met"], value <= most, "{figure}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn a_benchmark_of_dead_webhooks_measures_the_healthy_ones_alone_and_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(folder.path(), &["bench", "--tiny", "--only", "isolation", "--json"]));
    expect_exit(&output, 0);
    let report = json(&output.stdout);
    let figures = report["figures"].as_array().unwrap();
    let named = |name: &str| -> Vec<_> { figures.iter().filter(|figure| figure["name"] == name).collect() };
    let value = |figure: &Value| figure["value"].as_f64().unwrap();
    for name in ["100 healthy webhooks at 500/s, p99", "beside 30 dead ones that fail, p99", "failed attempts"] {
        assert!(matches!(&named(name)[..], [figure] if value(figure) > 0.0), "{name} in {report}");
    }
    // While the dead fail, while they are probed, and when each event is owed to one of them too.
    let slower = named("against alone");
    assert!(slower.len() == 3 && slower.iter().all(|figure| figure["at_most"] == 2.0), "{report}");
    let shares = named("share of alone");
    assert!(shares.len() == 2 && shares.iter().all(|figure| figure["at_least"] == 90.0), "{report}");
    assert!(value(named("missing at healthy ones")[0]) < 0.5, "{report}");
    // A third refuses connections, and fails five times at once.
    assert!(value(named("circuits open")[0]) >= 10.0, "{report}");
}

#[test]
fn a_benchmark_of_tenants_measures_the_quiet_one_beside_each_flood() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&mut postrider(folder.path(), &["bench", "--tiny", "--only", "tenants", "--json"]));
    expect_exit(&output, 0);
    let report = json(&output.stdout);
    let figures = report["figures"].as_array().unwrap();
    let against: Vec<_> = figures.iter().filter(|figure| figure["name"] == "against alone").collect();
    assert!(against.len() == 16 && against.iter().all(|figure| figure["at_most"] == 2.0), "{report}");
    let missing = figures.iter().find(|figure| figure["name"] == "missing at the quiet one").unwrap();
    assert!(missing["value"].as_f64().unwrap() < 0.5, "{report}");
}

#[test]
fn continuous_integration_measures_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = ["scripts", ".ci"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let mut seen = 0;
    for script in scripts.into_iter().flatten() {
        let path = script.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(!script.contains("postrider bench") && !script.contains("cargo bench"), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 2, "only {seen} scripts were found");
}

#[test]
fn stats_show_in_80_columns_what_happened() {
    let server = Server::start();
    let (mut receiver, url) = listen(server.folder.path(), "127.0.0.1:0", &["--secret", SECRET]);
    let name = "re\u{202e}ceiver";
    server.ask(&["webhook", "create", "--name", name, "--url", &url, "--topic", "a.>", "--secret", SECRET]);
    for _ in 0..3 {
        server.ask(&["event", "send", "a.b"]);
        receiver.line();
    }
    server.ask(&["event", "send", "nobody.listens"]);
    let give_up = Instant::now() + WAIT;
    let series = loop {
        let series = server.ask(&["stats", "--since", "30m"]);
        if series["total"]["delivered"] == 3 && series["total"]["accepted"] == 4 {
            break series;
        }
        assert!(Instant::now() < give_up, "{series}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&series["step"], series["points"].as_array().unwrap().len() >= 30), (&object!("minute"), true));

    let output = run(&mut server.command(&["stats", "--webhook", name, "--since", "24h", "--step", "minute"]));
    expect_exit(&output, 0);
    let shown = text(&output.stdout);
    assert!(shown.starts_with("re\\u{202e}ceiver, ") && shown.contains(" utc, by minute\n"), "{shown}");
    for (label, count) in [("accepted", "3"), ("delivered", "3"), ("failed", "0"), ("dead", "0"), ("success", "100")] {
        let line = shown.lines().find(|line| line.starts_with(label)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(count), "{shown}");
    }
    assert!(shown.contains('█') && shown.contains(" p99"), "{shown}");
    let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "{widest}: {shown}");

    let output = run(&mut server.command(&["stats", "--since", "9999d", "--step", "minute"]));
    expect_exit(&output, 1);
    assert!(text(&output.stderr).contains("the limit is 1500"), "{}", text(&output.stderr));
    expect_exit(&run(&mut server.command(&["stats", "--webhook", "nobody"])), 1);

    let mut watching = Running::start(server.command(&["stats", "--watch", "--json"]));
    let (first, second) = (watching.json(), watching.json());
    assert_eq!((&first["total"]["accepted"], &second["total"]["accepted"]), (&object!(4), &object!(4)));
    watching.terminate();
    assert_eq!(watching.exit_code(), Some(0));
}
