//! How a source signs in, and what it may do.

use super::*;
use crate::support::certificates::certificates;

const SECRET: &str = "hunter2-of-redis";
/// The stream and the group of the example in the documents.
const LOGIN: &str = "user = 'shop'\npassword = 'hunter2-of-redis'";

/// The rights that the documents name.
fn documented_rights() -> String {
    let docs = include_str!("../../../../docs/sources.md");
    let (_, rest) = docs.split_once("ACL SETUSER postrider ").expect("the rights are documented");
    let line = rest.lines().next().unwrap();
    line.replace("~orders", &format!("~{STREAM}")).replace(">PASSWORD", &format!(">{SECRET}"))
}

#[tokio::test]
async fn rights_that_are_missing_are_named_and_the_documented_ones_are_enough() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut client = orders.server.client().await;
    let text = format!("{}\n{LOGIN}\nclaim_after_s = 1", source_at(&orders.server.url()));
    let (server, receiver) = serve(&text, folder.path()).await;
    // Nobody has that name.
    fails_with(&server, "the server refuses the login").await;
    command(&mut client, &format!("ACL SETUSER shop {}", documented_rights())).await;
    become_state(&server, "running").await;
    add_order(&mut client, "o-1", "{}").await;
    receiver.wait_for(1).await;
    empty(&mut client).await;
    // Rights are taken away, and given again.
    command(&mut client, "ACL SETUSER shop -xack").await;
    add_order(&mut client, "o-2", "{}").await;
    fails_with(&server, "NOPERM").await;
    command(&mut client, "ACL SETUSER shop +xack").await;
    add_order(&mut client, "o-3", "{}").await;
    receiver.wait_for(3).await;
    empty(&mut client).await;
    become_state(&server, "running").await;
    // Another password.
    command(&mut client, &format!("ACL SETUSER shop <{SECRET} >another")).await;
    command(&mut client, "CLIENT KILL USER shop").await;
    fails_with(&server, "the server refuses the login").await;
    let log = server.log.text();
    assert!(!log.contains(SECRET), "the log has the password");
    server.stop().await;
}

#[tokio::test]
async fn a_server_may_want_a_password_and_a_source_may_have_a_database() {
    let redis = RedisServer::start_with(&format!("requirepass {SECRET}")).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (server, _receiver) = serve(&source_at(&redis.url()), folders[0].path()).await;
    fails_with(&server, "NOAUTH").await;
    server.stop().await;
    let text = format!("{}\npassword = '{SECRET}'\ndatabase = 99", source_at(&redis.url()));
    let (server, _receiver) = serve(&text, folders[1].path()).await;
    fails_with(&server, "DB index is out of range").await;
    server.stop().await;
    let text = text.replace("99", "3");
    let (server, receiver) = serve(&text, folders[2].path()).await;
    let client = redis::Client::open(redis.url().replace("://", &format!("://:{SECRET}@")) + "/3").unwrap();
    let mut client = client.get_multiplexed_async_connection().await.unwrap();
    add_order(&mut client, "o-1", "{}").await;
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "o-1");
    server.stop().await;
}

#[tokio::test]
async fn by_tls_with_a_private_authority() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let shown = folder.path().display();
    let redis = RedisServer::start_with(&format!(
        "tls-port TLS_PORT\ntls-cert-file {shown}/server.pem\ntls-key-file {shown}/server.key\n\
         tls-ca-cert-file {shown}/ca.pem\ntls-auth-clients yes"
    ))
    .await;
    let with = |tls: &str| format!("{}\n{tls}", source_at(&redis.tls_url()));
    let whole = format!(
        "tls = {{ ca = '{shown}/ca.pem', certificate = '{shown}/client.pem', key = {{ file = '{shown}/client.key' }} }}"
    );
    let one = tempfile::tempdir().unwrap();
    let (server, receiver) = serve(&with(&whole), one.path()).await;
    become_state(&server, "running").await;
    add_order(&mut redis.client().await, "o-1", "{}").await;
    receiver.wait_for(1).await;
    server.stop().await;
    for (tls, words) in [
        // The server's certificate is of nobody who is known.
        ("", "TLS: invalid peer certificate: UnknownIssuer"),
        // The server wants one of the client.
        (&*format!("tls = {{ ca = '{shown}/ca.pem' }}"), "CertificateRequired"),
    ] {
        let other = tempfile::tempdir().unwrap();
        let (server, _receiver) = serve(&with(tls), other.path()).await;
        fails_with(&server, words).await;
        server.stop().await;
    }
    // TLS is demanded, and the port has none.
    let other = tempfile::tempdir().unwrap();
    let text = format!("{}\n{whole}", source_at(&redis.url().replace("redis://", "rediss://")));
    let (server, _receiver) = serve(&text, other.path()).await;
    fails_with(&server, "cannot connect to rediss://").await;
    server.stop().await;
}
