//! Nodes that share a database, each a process with a data folder of its own.

use std::collections::BTreeSet;
use std::fs;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::namespace::Namespace;
use crate::cluster::{LOOK_EVERY, PATIENCE, until};
use crate::support::postgres_server::Cluster;
use crate::support::program::{Caller, Program};
use crate::support::receiver::TestReceiver;

pub(crate) const DATABASE: &str = "hooks";
/// As short as may be without a busy machine's costing nodes their leases.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// Webhooks, so that every node has some.
pub(crate) const WEBHOOKS: usize = 24;
const MAX_IN_FLIGHT: usize = 16;

pub(crate) struct Nodes {
    members: Vec<Member>,
    directory: Directory,
}

struct Member {
    name: String,
    /// The URL of the database, as this node reaches it.
    store: String,
    folder: TempDir,
    namespace: Option<Arc<Namespace>>,
    /// `None` while it is down.
    program: Option<Program>,
    is_paused: bool,
}

impl Member {
    fn runs(&self) -> bool {
        self.program.is_some() && !self.is_paused
    }
}

/// Where publishers find the nodes. One that is down stays in it.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<Vec<Caller>>>);

impl Directory {
    pub(crate) fn all(&self) -> Vec<Caller> {
        self.0.lock().expect("nobody panics").clone()
    }

    fn put(&self, place: usize, caller: Caller) {
        let mut callers = self.0.lock().expect("nobody panics");
        let count = callers.len().max(place + 1);
        callers.resize(count, caller.clone());
        callers[place] = caller;
    }
}

impl Nodes {
    /// `receiver` is the URL of all webhooks, without a path: `w0`, `w1` and so on, each of which wants its own topic.
    pub(crate) async fn start(store: &str, count: usize, receiver: &str) -> Self {
        let webhook = |n| {
            json!({
                "name": format!("w{n}"), "url": format!("{receiver}/w{n}"), "topic_patterns": [format!("load.w{n}")],
                "max_in_flight": MAX_IN_FLIGHT, "retry_schedule": vec![0.1; 40],
            })
        };
        Self::start_with(store, count, &(0..WEBHOOKS).map(webhook).collect::<Vec<_>>()).await
    }

    /// With webhooks of these settings.
    pub(crate) async fn start_with(store: &str, count: usize, webhooks: &[Value]) -> Self {
        let mut nodes = Self { members: Vec::new(), directory: Directory::default() };
        nodes.add(store, None);
        // Before there are other nodes, which each answer would wait for.
        for webhook in webhooks {
            let (status, problem) = nodes.caller(0).call(Method::POST, "/api/v1/webhooks", webhook).await;
            assert_eq!(status, 201, "{problem}");
        }
        for _ in 1..count {
            nodes.add(store, None);
        }
        nodes
    }

    /// Starts one more.
    pub(crate) fn add(&mut self, store: &str, namespace: Option<Arc<Namespace>>) {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(first) = self.members.first() {
            fs::create_dir(folder.path().join("data")).expect("a folder");
            let key = "data/master.key";
            fs::copy(first.folder.path().join(key), folder.path().join(key)).expect("the first node made a key");
        }
        let name = format!("node-{}", self.members.len());
        self.members.push(Member { name, store: store.to_owned(), folder, namespace, program: None, is_paused: false });
        self.run(self.members.len() - 1);
    }

    /// Starts a node that is down.
    pub(crate) fn run(&mut self, place: usize) {
        let member = &mut self.members[place];
        let lease = format!("{}s", LEASE.as_secs());
        let options = [
            ["--store", &member.store],
            ["--store-connections", "8"],
            ["--lease", &lease],
            ["--node-name", &member.name],
            ["--log", "warn"],
            ["--allow-private", Namespace::ALL],
        ];
        let (options, folder) = (options.concat(), member.folder.path());
        let program = match &member.namespace {
            Some(namespace) => {
                Program::start_in(namespace.name(), namespace.api().inside, folder, &options, Stdio::inherit())
            }
            None => Program::start(folder, &options, Stdio::inherit()),
        };
        self.directory.put(place, program.caller.clone());
        member.program = Some(program);
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) fn caller(&self, place: usize) -> Caller {
        self.directory.all().swap_remove(place)
    }

    fn signal(&self, place: usize, signal: Signal) {
        self.members[place].program.as_ref().expect("it runs").signal(signal);
    }

    /// Stops the process where it is, until [`Nodes::resume`].
    pub(crate) fn pause(&mut self, place: usize) {
        self.signal(place, Signal::STOP);
        self.members[place].is_paused = true;
    }

    pub(crate) fn resume(&mut self, place: usize) {
        self.signal(place, Signal::CONT);
        self.members[place].is_paused = false;
    }

    pub(crate) fn kill(&mut self, place: usize) {
        self.members[place].program.take().expect("it runs").kill();
    }

    /// Ends a node as an operator does.
    pub(crate) async fn terminate(&mut self, place: usize) -> ExitStatus {
        self.signal(place, Signal::TERM);
        let mut program = self.members[place].program.take().expect("it runs");
        let mut status = None;
        until("the node ends", PATIENCE, async || {
            status = program.child.try_wait().expect("it is our child");
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }

    /// Waits until every node that runs owns its share of the shards, as the database sees it.
    pub(crate) async fn wait_for_balance(&self, cluster: &Cluster) {
        let running: BTreeSet<&str> =
            self.members.iter().filter(|member| member.runs()).map(|member| &*member.name).collect();
        let (client, least) = (cluster.connect(DATABASE).await, 256 / running.len() - running.len());
        until("the nodes share the shards", PATIENCE, async || {
            let rows = client
                .query(
                    "SELECT node.name, count(*) FROM shard JOIN node ON node.uuid = shard.holder
                     WHERE lease_until > clock_timestamp() GROUP BY node.uuid",
                    &[],
                )
                .await
                .expect("the database answers");
            let owned: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            owned.iter().map(|(_, count)| count).sum::<i64>() == 256
                && owned.iter().map(|(name, _)| &**name).collect::<BTreeSet<_>>() == running
                && owned.iter().all(|(_, count)| usize::try_from(*count).is_ok_and(|count| count >= least))
        })
        .await;
        // What it owns it takes over a moment later.
        tokio::time::sleep(LOOK_EVERY).await;
    }

    /// The webhooks whose shards the node owns.
    pub(crate) async fn webhooks_of(&self, cluster: &Cluster, place: usize) -> BTreeSet<String> {
        let owned = "
            SELECT webhook.name FROM webhook
                JOIN shard ON shard.id = webhook.shard
                JOIN node ON node.uuid = shard.holder
            WHERE node.name = $1 AND lease_until > clock_timestamp()";
        let client = cluster.connect(DATABASE).await;
        let rows = client.query(owned, &[&self.members[place].name]).await.expect("the database answers");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// A database, so many nodes on it, and a receiver of all their webhooks.
pub(crate) async fn start(count: usize, receiver: &TestReceiver) -> (Cluster, Nodes) {
    let cluster = Cluster::with_database(DATABASE).await;
    let nodes = Nodes::start(&cluster.url(DATABASE), count, &receiver.url("")).await;
    nodes.wait_for_balance(&cluster).await;
    (cluster, nodes)
}
