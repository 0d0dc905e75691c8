//! How a source signs in, and what it may do.

use async_nats::ConnectOptions;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;

use super::*;
use crate::support::certificates::certificates;

const SECRET: &str = "hunter2-of-the-broker";

/// What the source and another client say so that the server lets them in.
struct Way {
    settings: String,
    source: String,
    client: Box<dyn Fn() -> ConnectOptions>,
}

/// A message comes through, and no secret is written anywhere.
async fn comes_through(nats: &NatsServer, way: Way, secrets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']\n{}", nats.url(), way.source);
    let (server, receiver) = serve(&text, folder.path()).await;
    become_state(&server, "running").await;
    let client = (way.client)().connect(nats.url()).await.unwrap();
    while receiver.received_count() == 0 {
        client.publish("orders.made", "{}".into()).await.unwrap();
        client.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = server.log.text();
    for secret in secrets {
        assert!(!log.contains(secret), "the log has a secret");
    }
    server.stop().await;
}

async fn start(way: &Way) -> NatsServer {
    NatsServer::start_with(&way.settings).await
}

fn by_password(password: &str) -> Way {
    let password_of_client = password.to_owned();
    Way {
        settings: format!("authorization {{ user: shop, password: \"{password}\" }}"),
        source: format!("user = 'shop'\npassword = '{password}'"),
        client: Box::new(move || ConnectOptions::with_user_and_password("shop".to_owned(), password_of_client.clone())),
    }
}

#[tokio::test]
async fn by_user_and_password() {
    let way = by_password(SECRET);
    comes_through(&start(&way).await, way, &[SECRET]).await;
}

#[tokio::test]
async fn by_token() {
    let way = Way {
        settings: format!("authorization {{ token: \"{SECRET}\" }}"),
        source: format!("token = '{SECRET}'"),
        client: Box::new(|| ConnectOptions::with_token(SECRET.to_owned())),
    };
    comes_through(&start(&way).await, way, &[SECRET]).await;
}

#[tokio::test]
async fn by_nkey() {
    let key = KeyPair::new_user();
    let seed = key.seed().unwrap();
    let seed_of_client = seed.clone();
    let way = Way {
        settings: format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key()),
        source: format!("nkey = '{seed}'"),
        client: Box::new(move || ConnectOptions::with_nkey(seed_of_client.clone())),
    };
    comes_through(&start(&way).await, way, &[&seed]).await;
}

/// A JWT as NATS has them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name, "nats": claims,
    });
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn by_credentials() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    // Servers with JetStream and operators want one.
    let system = KeyPair::new_account();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_operator = jwt(&operator, &operator, "operator", &json!({"type": "operator", "version": 2}));
    let of_account = jwt(&operator, &account, "account", &json!({"type": "account", "version": 2, "limits": limits}));
    let of_system = jwt(&operator, &system, "system", &json!({"type": "account", "version": 2, "limits": limits}));
    let of_user = jwt(
        &account,
        &user,
        "user",
        &json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}),
    );
    let seed = user.seed().unwrap();
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.creds");
    std::fs::write(&file, &credentials).unwrap();
    let way = Way {
        settings: format!(
            "operator: {of_operator}\nresolver: MEMORY\nsystem_account: {0}\n\
             resolver_preload: {{ {0}: {of_system}, {1}: {of_account} }}",
            system.public_key(),
            account.public_key()
        ),
        source: format!("credentials = {{ file = '{}' }}", file.display()),
        client: Box::new(move || ConnectOptions::with_credentials(&credentials).unwrap()),
    };
    comes_through(&start(&way).await, way, &[&seed, &of_user]).await;
}

#[tokio::test]
async fn by_a_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name);
    let shown = folder.path().display();
    let (ca, certificate, key) = (at("ca.pem"), at("client.pem"), at("client.key"));
    let way = Way {
        settings: format!(
            "tls {{ cert_file: \"{shown}/server.pem\", key_file: \"{shown}/server.key\", \
             ca_file: \"{shown}/ca.pem\", verify: true }}"
        ),
        source: format!(
            "tls = {{ ca = '{shown}/ca.pem', certificate = '{shown}/client.pem', key = {{ file = '{shown}/client.key' }} }}"
        ),
        client: Box::new(move || {
            ConnectOptions::new()
                .add_root_certificates(ca.clone())
                .add_client_certificate(certificate.clone(), key.clone())
                .require_tls(true)
        }),
    };
    let nats = start(&way).await;
    comes_through(&nats, way, &[&std::fs::read_to_string(at("client.key")).unwrap()]).await;
    for (tls, words) in [
        // The server's certificate is of nobody who is known.
        ("", "invalid peer certificate: UnknownIssuer"),
        // The server wants one of the client.
        (&*format!("tls = {{ ca = '{shown}/ca.pem' }}"), "ertificate"),
    ] {
        let other = tempfile::tempdir().unwrap();
        let text = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']\n{tls}", nats.url());
        let (server, _receiver) = serve(&text, other.path()).await;
        fails_with(&server, words).await;
        server.stop().await;
    }
    // TLS is demanded, and the server has none.
    let plain = NatsServer::start().await;
    let text =
        format!("kind = 'nats'\nservers = '{}'\nsubjects = ['a']\ntls = {{ ca = '{shown}/ca.pem' }}", plain.url());
    let other = tempfile::tempdir().unwrap();
    let (server, _receiver) = serve(&text, other.path()).await;
    fails_with(&server, "cannot connect to").await;
    server.stop().await;
}

#[tokio::test]
async fn a_login_that_is_revoked_is_told_and_one_that_is_given_again_is_used() {
    let (old, new) = (by_password(SECRET), by_password("another"));
    let (nats, folder) = (start(&old).await, tempfile::tempdir().unwrap());
    let text = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']\n{}", nats.url(), old.source);
    let (server, receiver) = serve(&text, folder.path()).await;
    become_state(&server, "running").await;
    nats.reload(&new.settings);
    fails_with(&server, "the server refuses the login").await;
    nats.reload(&old.settings);
    become_state(&server, "running").await;
    let client = (old.client)().connect(nats.url()).await.unwrap();
    while receiver.received_count() == 0 {
        client.publish("orders.made", "{}".into()).await.unwrap();
        client.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!server.log.text().contains(SECRET), "the log has the password");
    server.stop().await;
}

/// Users: an administrator, and one that may publish to and subscribe to these.
fn users(publish: &str, subscribe: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: admin, password: admin }}, {{ user: shop, password: \"{SECRET}\", \
         permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }} ] }}"
    )
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_the_documented_ones_are_enough() {
    let (nats, folder) =
        (NatsServer::start_with(&users("\"_INBOX.>\"", "\"_INBOX.>\"")).await, tempfile::tempdir().unwrap());
    let admin = ConnectOptions::with_user_and_password("admin".to_owned(), "admin".to_owned());
    let context = jetstream::new(admin.connect(nats.url()).await.unwrap());
    let config =
        StreamConfig { name: "ORDERS".to_owned(), subjects: vec!["orders.>".to_owned()], ..StreamConfig::default() };
    context.create_stream(config).await.unwrap();
    let login = format!("user = 'shop'\npassword = '{SECRET}'");
    let text = format!(
        "kind = 'nats-jetstream'\nservers = '{}'\nstream = 'ORDERS'\nconsumer = 'postrider'\n{login}",
        nats.url()
    );
    let (server, receiver) = serve(&text, folder.path()).await;
    fails_with(&server, "Permissions Violation for Publish to \"$JS.API.CONSUMER.INFO.ORDERS.postrider\"").await;
    let documented = documented_rights();
    nats.reload(&users(&documented, "\"_INBOX.>\""));
    become_state(&server, "running").await;
    publish(&context, "orders.made", Some("o-1"), "{}").await;
    receiver.wait_for(1).await;
    while unacknowledged(&context).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;

    let core = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']\n{login}", nats.url());
    let other = tempfile::tempdir().unwrap();
    let (server, _receiver) = serve(&core, other.path()).await;
    fails_with(&server, "Permissions Violation for Subscription to \"orders.>\"").await;
    server.stop().await;
}

/// The subjects of the section's block `publish`.
fn documented_rights() -> String {
    let docs = include_str!("../../../../docs/sources.md");
    let (_, rest) = docs.split_once("publish: [").expect("the rights are documented");
    rest.split(']').next().unwrap().to_owned()
}
