//! `postrider serve` in a process of its own, on a free port and a folder's `data`, and a client of its API.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::{Destination, EgressPolicy};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The admin token of every such server.
pub(crate) const TOKEN: &str = "a-token-of-the-operators-choice";
const TIMEOUT: Duration = Duration::from_secs(30);

/// Ends with the test, if not before.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) caller: Caller,
}

/// Calls the API of one server.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client,
    url: String,
}

impl Program {
    /// `options` are those of `serve`; `stderr` gets the log.
    pub(crate) fn start(folder: &Path, options: &[&str], stderr: Stdio) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        Self::start_as(command, "127.0.0.1:0", folder, options, stderr)
    }

    /// With no more than so many open files.
    pub(crate) fn start_limited(files: u32, folder: &Path, options: &[&str], stderr: Stdio) -> Self {
        // It becomes the program itself, so that the process is ours to signal.
        let mut command = Command::new("/bin/sh");
        let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_postrider")]);
        Self::start_as(command, "127.0.0.1:0", folder, options, stderr)
    }

    /// In a network namespace, at an address of it.
    pub(crate) fn start_in(namespace: &str, ip: Ipv4Addr, folder: &Path, options: &[&str], stderr: Stdio) -> Self {
        // It becomes the program itself, so that the process is ours to signal.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_postrider")]);
        Self::start_as(command, &format!("{ip}:0"), folder, options, stderr)
    }

    fn start_as(mut command: Command, listen: &str, folder: &Path, options: &[&str], stderr: Stdio) -> Self {
        let mut child = command
            .args(["--json", "serve", "--listen", listen, "--allow-private", "127.0.0.0/8"])
            .args(options)
            .arg("--data")
            .arg(folder.join("data"))
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("POSTRIDER_ADMIN_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the server speaks");
        let started: Value = serde_json::from_str(&line).expect("it says where it is");
        let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
        let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).expect("a client");
        let url = started["url"].as_str().expect("an address").to_owned();
        Self { child, caller: Caller { client, url } }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server is our child");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Caller {
    /// The answer, or `None` if there is none because the server has gone.
    pub(crate) async fn try_call(&self, method: Method, path: &str, body: &Value) -> Option<Response<Bytes>> {
        self.try_call_with(method, path, &[("authorization", &format!("Bearer {TOKEN}"))], body).await
    }

    /// As [`Self::try_call`], with these headers and no other token, and any text as the body.
    pub(crate) async fn try_call_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &(dyn std::fmt::Display + Sync),
    ) -> Option<Response<Bytes>> {
        let url = format!("{}{path}", self.url);
        let request = Request::builder().method(method).uri(&url).header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Bytes::from(body.to_string())).expect("a request");
        let destination = Destination::parse(&url).expect("a destination");
        self.client.request(&destination, request, 1 << 20, TIMEOUT).await.ok()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let response = self.try_call(method, path, body).await.expect("the server answers");
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or_default())
    }

    /// Where the server is: `127.0.0.1:…`.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, &Value::Null).await
    }
    /// A page as it is.
    pub(crate) async fn text(&self, path: &str) -> String {
        let response = self.try_call(Method::GET, path, &Value::Null).await.expect("the server answers");
        String::from_utf8(response.into_body().to_vec()).expect("a text")
    }
}
