//! What a PostgreSQL store promises to nodes that share it: each shard has one owner at a time, and who is the owner no
//! more changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fixtures::{accept, at, delivered, delivery, in_memory, key, read_due, settings, state};
use postrider::delivery::DeliveryState;
use postrider::store::cluster::{ChangeMark, Fence, Hint, Node, Renewal, Renewed, Term};
use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::seal::MasterKey;
use postrider::store::{SettleBatch, Shard, Store, TenantPatch};
use postrider::webhook::{DEFAULT_TENANT, WebhookHealth, WebhookRecord};
use uuid::Uuid;

use crate::store_conformance::fixtures;
use crate::support::postgres_server::Cluster;

const DATABASE: &str = "nodes";
const LEASE: Duration = Duration::from_mins(1);
/// One that is over soon.
const SHORT: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A node with its own way to the database.
struct Member {
    store: Arc<dyn Store>,
    node: Node,
    held: Vec<Term>,
}

impl Member {
    async fn new(server: &Cluster, name: &str) -> Self {
        let options = PostgresOptions::new(server.url(DATABASE).into());
        let store = Arc::new(PostgresStore::open(options, &MasterKey::new([7; 32])).await.unwrap());
        let (address, version) = ("127.0.0.1:1".to_owned(), "1".to_owned());
        let node = Node { uuid: Uuid::new_v4(), name: name.to_owned(), address, version, started_at: at(1) };
        Self { store, node, held: Vec::new() }
    }

    fn cluster(&self) -> Arc<dyn postrider::store::cluster::Cluster> {
        self.store.cluster().unwrap()
    }

    /// Renews what it holds, and holds what it is given.
    async fn renew(&mut self, lease: Duration) -> Renewed {
        self.renew_as(lease, true).await
    }

    async fn renew_as(&mut self, lease: Duration, takes_silent: bool) -> Renewed {
        let (node, held) = (self.node.clone(), self.held.clone());
        let renewal = Renewal { node, lease, held, is_draining: false, takes_silent };
        let renewed = self.cluster().renew(&renewal).await.unwrap();
        self.held.clone_from(&renewed.held);
        renewed
    }

    async fn release(&mut self, count: usize) {
        let given = self.held.split_off(self.held.len() - count);
        self.cluster().hand_over(self.node.uuid, &given).await.unwrap();
    }

    fn shards(&self) -> Vec<Shard> {
        self.held.iter().map(|term| term.shard).collect()
    }

    fn term_of(&self, webhook: &WebhookRecord) -> Term {
        *self.held.iter().find(|term| term.shard == Shard::of(webhook.uuid)).unwrap()
    }

    fn fence(&self, webhook: &WebhookRecord, term: Term) -> Fence {
        Fence { node: self.node.uuid, terms: vec![(webhook.seq, term)] }
    }
}

fn epochs(held: &[Term]) -> HashSet<i64> {
    held.iter().map(|term| term.epoch).collect()
}

#[tokio::test]
async fn shards_are_shared_evenly_and_each_owner_raises_the_epoch() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    assert_eq!(one.renew(LEASE).await.surplus, 0);
    assert_eq!((one.held.len(), epochs(&one.held)), (256, HashSet::from([1])));
    assert_eq!(two.renew(LEASE).await, Renewed::default(), "nothing is free");
    let again = one.renew(LEASE).await;
    assert_eq!((again.held.len(), again.surplus, epochs(&again.held)), (256, 128, HashSet::from([1])));
    one.release(128).await;
    assert_eq!(two.renew(LEASE).await.held.len(), 128);
    assert_eq!(epochs(&two.held), HashSet::from([2]));
    let owned: HashSet<_> = one.shards().into_iter().chain(two.shards()).collect();
    assert_eq!(owned.len(), 256);

    let nodes = one.cluster().nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.shards.len()).collect::<Vec<_>>(), [128, 128]);
    assert!(nodes.iter().all(|node| node.is_alive && !node.is_draining && node.silent_for < LEASE));

    assert!(one.cluster().set_draining(two.node.uuid, true).await.unwrap());
    let drained = two.renew(LEASE).await;
    assert_eq!((drained.is_draining, drained.surplus), (true, 128));
    two.release(128).await;
    assert_eq!(one.renew(LEASE).await.held.len(), 256);
    assert!(one.cluster().set_draining(two.node.uuid, false).await.unwrap());
    assert!(!one.cluster().set_draining(Uuid::nil(), true).await.unwrap());
    assert_eq!(one.renew(LEASE).await.surplus, 128);
    two.cluster().leave(two.node.uuid).await.unwrap();
    assert_eq!(one.renew(LEASE).await.surplus, 0);
    assert_eq!(one.cluster().nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_silent_node_had_goes_to_another_and_does_not_come_back() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(SHORT).await;
    let before = one.held.clone();
    tokio::time::sleep(SHORT).await;
    assert_eq!(two.renew(LEASE).await.held.len(), 256, "the silent one has no share");
    assert_eq!(one.renew(LEASE).await.held, []);
    assert_eq!(two.renew(LEASE).await.surplus, 128);
    // It may not give back what is another's now.
    one.cluster().hand_over(one.node.uuid, &before).await.unwrap();
    assert_eq!(two.renew(LEASE).await.held.len(), 256);
    // A term that its owner does not name is over, though nobody else has the shard.
    two.held.truncate(100);
    let again = two.renew(LEASE).await;
    assert_eq!(again.held.iter().filter(|term| term.epoch == 2).count(), 100);
    assert_eq!(again.held.iter().filter(|term| term.epoch == 3).count(), 28);
}

/// A database that was away has let all leases end. Who comes back first leaves the others what they have, and they record
/// what they have sent.
#[tokio::test]
async fn who_comes_back_takes_what_is_its_own_or_nobody_s_and_leaves_silent_ones_theirs() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(LEASE).await;
    one.release(128).await;
    two.renew(SHORT).await;
    one.release(28).await;
    let webhook = loop {
        let name = format!("a-{}", fastrand::u64(..));
        let webhook = one.store.create_webhook(DEFAULT_TENANT, settings(&name), at(1)).await.unwrap();
        if two.shards().contains(&Shard::of(webhook.uuid)) {
            break webhook;
        }
    };
    let seq = accept(&*two.store, in_memory("e-1", &[webhook.seq])).await;
    let sent = SettleBatch {
        settlements: vec![delivered(key(seq, webhook.seq), 1)],
        fence: Some(two.fence(&webhook, two.term_of(&webhook))),
        ..SettleBatch::default()
    };
    one.renew(SHORT).await;
    tokio::time::sleep(SHORT).await;
    // What it had has lapsed, too.
    one.held.clear();
    assert_eq!(one.renew_as(LEASE, false).await.held.len(), 128, "its own, and those of nobody");
    assert_eq!(two.store.settle(Arc::new(sent)).await.unwrap(), [], "its shard is still its own");
    assert_eq!(state(&*two.store, key(seq, webhook.seq)).await, DeliveryState::Delivered);
    assert_eq!(one.renew(LEASE).await.held.len(), 256);
}

#[tokio::test]
async fn a_settlement_of_a_term_that_is_over_changes_no_row() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(SHORT).await;
    let webhook = one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let seq = accept(&*one.store, in_memory("e-1", &[webhook.seq])).await;
    let key = key(seq, webhook.seq);
    let (stale, health) =
        (one.term_of(&webhook), WebhookHealth { consecutive_failures: 3, ..WebhookHealth::default() });
    tokio::time::sleep(SHORT).await;
    two.renew(LEASE).await;

    let before = delivery(&*one.store, key).await;
    let batch = |fence| SettleBatch {
        settlements: vec![delivered(key, 1)],
        health: vec![(webhook.seq, health.clone())],
        is_urgent: false,
        fence,
    };
    let ended = one.store.settle(Arc::new(batch(Some(one.fence(&webhook, stale))))).await.unwrap();
    assert_eq!(ended, [webhook.seq]);
    // Nor with the owner's epoch and another name, nor of a webhook that the fence does not name.
    let present = two.term_of(&webhook);
    assert_eq!(one.store.settle(Arc::new(batch(Some(one.fence(&webhook, present))))).await.unwrap(), [webhook.seq]);
    let unnamed = Fence { node: two.node.uuid, terms: Vec::new() };
    assert_eq!(two.store.settle(Arc::new(batch(Some(unnamed)))).await.unwrap(), [webhook.seq]);
    let after = delivery(&*one.store, key).await;
    assert_eq!((after.state, after.updated_at, after.attempts), (before.state, before.updated_at, 0));
    let record = one.store.webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap().unwrap();
    assert_eq!(record.health, WebhookHealth::default());
    assert_eq!(one.store.stats(DEFAULT_TENANT).await.unwrap().attempts, 0);

    assert_eq!(two.store.settle(Arc::new(batch(Some(two.fence(&webhook, present))))).await.unwrap(), []);
    assert_eq!(state(&*one.store, key).await, DeliveryState::Delivered);
}

/// Otherwise each would wait for the commits of the other.
#[tokio::test]
async fn nodes_count_in_rows_of_their_own() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(LEASE).await;
    one.release(128).await;
    two.renew(LEASE).await;
    one.renew(LEASE).await;
    let webhook = one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    for n in 0..3 {
        accept(&*one.store, in_memory(&format!("one-{n}"), &[webhook.seq])).await;
        accept(&*two.store, in_memory(&format!("two-{n}"), &[webhook.seq])).await;
    }
    let client = server.connect(DATABASE).await;
    let rows = client.query("SELECT events FROM counters WHERE events > 0 ORDER BY slot", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(one.store.stats(DEFAULT_TENANT).await.unwrap().events, 6);
}

/// A claim comes before the owner's commit or after it, and never between its look and its writing.
#[tokio::test]
async fn a_shard_is_not_taken_while_a_settlement_is_being_committed() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(SHORT).await;
    tokio::time::sleep(SHORT).await;
    let client = server.connect(DATABASE).await;
    client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock_shared(20562, 7)").await.unwrap();
    assert_eq!(two.renew(LEASE).await.held.len(), 255);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(two.renew(LEASE).await.held.len(), 256);
}

#[tokio::test]
async fn what_an_owner_had_in_memory_is_due_for_the_next() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(SHORT).await;
    let webhook = one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let first = accept(&*one.store, in_memory("e-1", &[webhook.seq])).await;
    let shards = one.shards();
    assert_eq!(one.cluster().owed(&shards).await.unwrap(), [], "it is in memory");
    tokio::time::sleep(SHORT).await;
    two.renew(LEASE).await;
    let taken = two.cluster().take_over(&two.shards()).await.unwrap();
    assert_eq!(taken.webhooks.iter().map(|record| record.seq).collect::<Vec<_>>(), [webhook.seq]);
    assert_eq!(two.cluster().owed(&two.shards()).await.unwrap(), [(webhook.seq, at(100))]);

    // The one before does not know yet that it is none.
    let late = accept(&*one.store, in_memory("e-2", &[webhook.seq])).await;
    let owned = accept(&*two.store, in_memory("e-3", &[webhook.seq])).await;
    let due = read_due(&*two.store, webhook.seq, at(200), 10).await.deliveries;
    assert_eq!(due.iter().map(|due| due.event.seq).collect::<Vec<_>>(), [first, late]);
    two.cluster().retrieve(&two.shards(), late).await.unwrap();
    assert_eq!(read_due(&*two.store, webhook.seq, at(200), 10).await.deliveries.len(), 2);
    two.cluster().pass_on(&[key(owned, webhook.seq)]).await.unwrap();
    assert_eq!(read_due(&*two.store, webhook.seq, at(200), 10).await.deliveries.len(), 3);
}

/// The statement has begun when the shard is still its node's, and its event gets a number when it is another's.
#[tokio::test]
async fn what_is_accepted_while_the_shard_is_given_away_is_due_for_the_next_owner() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    one.renew(LEASE).await;
    let webhook = one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    one.cluster().take_over(&one.shards()).await.unwrap();
    accept(&*one.store, in_memory("e-0", &[])).await;
    // Nobody gets a number until this ends.
    let (client, looker) = (server.connect(DATABASE).await, server.connect(DATABASE).await);
    client.batch_execute("BEGIN; ALTER SEQUENCE event_number CACHE 1").await.unwrap();
    let give_away = async {
        let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'event_number'::regclass";
        while looker.query(waiting, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        one.cluster().leave(one.node.uuid).await.unwrap();
        assert_eq!(two.renew(LEASE).await.held.len(), 256);
        let taken = two.cluster().take_over(&two.shards()).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        taken.through
    };
    let (late, through) = tokio::join!(accept(&*one.store, in_memory("e-1", &[webhook.seq])), give_away);
    assert!(late > through, "the second look of the next owner does not go so far");
    let due = read_due(&*two.store, webhook.seq, at(200), 10).await.deliveries;
    assert_eq!(due.iter().map(|due| due.event.seq).collect::<Vec<_>>(), [late]);
}

#[tokio::test]
async fn every_change_is_seen_by_the_others() {
    let server = Cluster::with_database(DATABASE).await;
    let (one, two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    let start = two.cluster().changes(None).await.unwrap();
    assert!(start.webhooks.is_empty() && start.tenants.is_empty());
    let kept = one.store.create_webhook(DEFAULT_TENANT, settings("kept"), at(1)).await.unwrap();
    let gone = one.store.create_webhook(DEFAULT_TENANT, settings("gone"), at(1)).await.unwrap();
    // A change that is under way when others are looked at is seen when it has come to its end.
    let client = server.connect(DATABASE).await;
    client.batch_execute("BEGIN; UPDATE webhook SET name = 'late' WHERE name = 'kept'").await.unwrap();
    let seen = two.cluster().changes(Some(&start.mark)).await.unwrap();
    assert_eq!(seen.webhooks.iter().map(|changed| changed.record.seq).collect::<Vec<_>>(), [kept.seq, gone.seq]);
    assert!(seen.webhooks.iter().all(|changed| changed.circuit_closed_by == 0));
    one.store.delete_webhook(DEFAULT_TENANT, gone.uuid, at(2)).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let patch = TenantPatch { name: Some("blue".to_owned()), ..TenantPatch::default() };
    let tenant = one.store.create_tenant(patch, at(2)).await.unwrap();
    let changed = one.store.update_webhook(DEFAULT_TENANT, kept.uuid, 1, settings("new"), true, at(3)).await.unwrap();
    let seen = two.cluster().changes(Some(&seen.mark)).await.unwrap();
    assert_eq!(seen.webhooks.len(), 1);
    assert_eq!((seen.webhooks[0].record.version, seen.webhooks[0].circuit_closed_by), (changed.version, 2));
    assert_eq!(seen.webhooks[0].record.settings.name, "new");
    assert_eq!(seen.deleted_webhooks, [(DEFAULT_TENANT, gone.seq)]);
    assert_eq!(seen.tenants, std::slice::from_ref(&tenant));
    // Health is no change of the webhook.
    let health = vec![(kept.seq, WebhookHealth { consecutive_failures: 1, ..WebhookHealth::default() })];
    one.store.settle(Arc::new(SettleBatch { health, ..SettleBatch::default() })).await.unwrap();
    one.store.delete_tenant(tenant.seq, false, at(4)).await.unwrap();
    let seen = two.cluster().changes(Some(&seen.mark)).await.unwrap();
    assert_eq!((seen.webhooks.len(), seen.deleted_tenants), (0, vec![tenant.seq]));
}

#[tokio::test]
async fn a_change_is_unknown_to_who_is_alive_and_has_not_looked_since_its_commit() {
    let server = Cluster::with_database(DATABASE).await;
    let (mut one, mut two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    let unaware = async |one: &Member, of: Option<&ChangeMark>| one.cluster().unaware(one.node.uuid, of).await.unwrap();
    let nobody: [&str; 0] = [];
    assert_eq!(unaware(&one, None).await.nodes, nobody, "it is alone");
    two.renew(LEASE).await;
    let moment = unaware(&one, None).await;
    assert_eq!(moment.nodes, ["two"], "it has never looked");
    let look = async |member: &Member| {
        let mark = member.cluster().changes(None).await.unwrap().mark;
        member.cluster().know(member.node.uuid, &mark).await.unwrap();
    };
    look(&two).await;
    assert_eq!(unaware(&one, Some(&moment.mark)).await.nodes, ["two"], "with no other node alive nothing is written");
    one.renew(LEASE).await;
    look(&two).await;
    assert_eq!(unaware(&one, Some(&moment.mark)).await.nodes, nobody);

    // A change is under way at the look, and committed after it; others are committed meanwhile, whose numbers are higher.
    let client = server.connect(DATABASE).await;
    client.batch_execute("BEGIN; UPDATE meta SET value = value").await.unwrap();
    let before = unaware(&one, None).await;
    one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    look(&two).await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(unaware(&one, Some(&before.mark)).await.nodes, nobody, "nobody could see it then");
    let after = unaware(&one, None).await;
    assert_eq!(after.nodes, ["two"]);
    look(&two).await;
    assert_eq!(unaware(&one, Some(&after.mark)).await.nodes, nobody);

    // Who is silent, and a program that does not say what it knows, are not waited for.
    one.store.create_webhook(DEFAULT_TENANT, settings("b"), at(1)).await.unwrap();
    let after = unaware(&one, None).await;
    assert_eq!(after.nodes, ["two"]);
    two.renew(SHORT).await;
    tokio::time::sleep(SHORT).await;
    assert_eq!(unaware(&one, Some(&after.mark)).await.nodes, nobody);
    two.renew(LEASE).await;
    assert_eq!(unaware(&one, Some(&after.mark)).await.nodes, ["two"]);
    client.batch_execute("UPDATE node SET known = NULL WHERE name = 'two'").await.unwrap();
    assert_eq!(unaware(&one, Some(&after.mark)).await.nodes, nobody);
}

#[tokio::test]
async fn hints_reach_the_others() {
    let server = Cluster::with_database(DATABASE).await;
    let (one, two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    let mut heard = two.cluster().listen();
    assert_eq!(heard.recv().await, Some(Hint::Changed), "what was said before is not known");
    let webhook = one.store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    one.cluster().hint(Hint::Due(webhook.seq));
    assert_eq!(heard.recv().await, Some(Hint::Due(webhook.seq)));
    // It goes on after its connection was cut.
    let client = server.connect(DATABASE).await;
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN postrider'")
        .await
        .unwrap();
    assert_eq!(heard.recv().await, Some(Hint::Changed));
    one.cluster().hint(Hint::Shards);
    assert_eq!(heard.recv().await, Some(Hint::Shards));
}

#[tokio::test]
async fn what_others_have_stored_is_known_after_a_look() {
    let server = Cluster::with_database(DATABASE).await;
    let (one, two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    let event = |id: &str, bytes: usize| {
        let topic = postrider::topic::Topic::parse("a.b").unwrap();
        let event = postrider::event::Event::from_stored(id.into(), topic, "".into(), vec![b'x'; bytes].into());
        postrider::store::NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: at(1), owed: Vec::new() }
    };
    one.store.accept(vec![event("e1", 100_000)]).await.unwrap();
    two.store.accept(vec![event("e1", 7), event("e2", 20)]).await.unwrap();
    let stored = || [&one, &two].map(|member| member.store.stored_bytes(DEFAULT_TENANT));
    assert_eq!(stored(), [100_000, 20]);
    for member in [&one, &two] {
        member.cluster().changes(None).await.unwrap();
    }
    assert_eq!(stored(), [100_020; 2]);
}

#[tokio::test]
async fn two_nodes_that_purge_the_audit_log_at_once_say_each_line_once() {
    const LINES: i64 = 1_700;
    let server = Cluster::with_database(DATABASE).await;
    let (one, two) = (Member::new(&server, "one").await, Member::new(&server, "two").await);
    let lines = format!(
        "INSERT INTO audit (uuid, at, tenant, actor_name, action, fields)
         SELECT gen_random_uuid(), number, 1 + number % 3, 'ops', 'webhook.create', ''
         FROM generate_series(1, {LINES}) AS number"
    );
    server.execute(DATABASE, &lines).await;
    let purge = async |member: &Member| while member.store.purge_audit(at(1), at(5)).await.unwrap() {};
    tokio::join!(purge(&one), purge(&two));
    // Who was last has seen nothing left.
    tokio::join!(purge(&one), purge(&two));
    let told = "SELECT sum(split_part(target_name, ' ', 1)::bigint)::bigint FROM audit WHERE action = 'audit.purge'";
    let client = server.connect(DATABASE).await;
    assert_eq!(client.query_one(told, &[]).await.unwrap().get::<_, i64>(0), LINES);
    let left = "SELECT count(*) FROM audit WHERE action != 'audit.purge'";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}
