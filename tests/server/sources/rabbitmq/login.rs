//! How a source signs in, and what it may do.

use super::*;
use crate::support::certificates::certificates;

const SECRET: &str = "hunter2-of-rabbitmq";

#[tokio::test]
async fn logins_rights_virtual_hosts_and_tls_are_told_apart() {
    let certificates_folder = tempfile::tempdir().unwrap();
    certificates(certificates_folder.path());
    let shown = certificates_folder.path().display();
    let mut rabbit = RabbitServer::stopped(&format!(
        "listeners.ssl.default = 127.0.0.1:TLS_PORT\nssl_options.cacertfile = {shown}/ca.pem\n\
         ssl_options.certfile = {shown}/server.pem\nssl_options.keyfile = {shown}/server.key\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true"
    ));
    rabbit.run_again().await;
    let folder = tempfile::tempdir().unwrap();
    let login = format!("user = 'shop'\npassword = '{SECRET}'\nvhost = 'shop'");
    let text = |url: &str| format!("{}\n{login}", source_at(url, "made"));
    let (server, receiver) = serve(&text(&rabbit.url()), folder.path()).await;
    // Nobody has that name; then it has another password; then there is no such virtual host; then no right to it.
    fails_with(&server, "ACCESS_REFUSED - Login was refused").await;
    rabbit.control(&format!("add_user shop {SECRET}")).await;
    fails_with(&server, "NOT_ALLOWED - vhost shop not found").await;
    rabbit.control("add_vhost shop").await;
    fails_with(&server, "NOT_ALLOWED - access to vhost 'shop' refused for user 'shop'").await;
    rabbit.control("set_permissions -p shop guest .* .* .*").await;
    let client = rabbit.client_of("shop").await;
    client.queue("made", &[]).await;
    rabbit.control("set_permissions -p shop shop ^$ ^$ ^$").await;
    fails_with(&server, "ACCESS_REFUSED - access to queue 'made' in vhost 'shop' refused").await;
    // The rights that the documents name.
    let docs = include_str!("../../../../docs/sources.md");
    let (_, rights) = docs.split_once("rabbitmqctl set_permissions --vhost shop postrider ").unwrap();
    let rights = rights.lines().next().unwrap().replace('\'', "").replace("orders", "made");
    rabbit.control(&format!("set_permissions --vhost shop shop {rights}")).await;
    become_state(&server, "running").await;
    client.publish("made", Some("o-1"), "{}").await;
    receiver.wait_for(1).await;
    // The right is taken away; the server asks for it when the source comes again.
    rabbit.control("clear_permissions -p shop shop").await;
    rabbit.control("close_all_connections --global bye").await;
    fails_with(&server, "access to vhost 'shop' refused").await;
    rabbit.control(&format!("set_permissions --vhost shop shop {rights}")).await;
    become_state(&server, "running").await;
    rabbit.control("change_password shop another").await;
    rabbit.control("close_all_connections --global bye").await;
    fails_with(&server, "ACCESS_REFUSED - Login was refused").await;
    assert!(!server.log.text().contains(SECRET), "the log has the password");
    server.stop().await;
    rabbit.control(&format!("change_password shop {SECRET}")).await;

    let client = rabbit.client_of("shop").await;
    let tls = format!(
        "tls = {{ ca = '{shown}/ca.pem', certificate = '{shown}/client.pem', key = {{ file = '{shown}/client.key' }} }}"
    );
    let folder = tempfile::tempdir().unwrap();
    let (server, receiver) = serve(&format!("{}\n{tls}", text(&rabbit.tls_url())), folder.path()).await;
    become_state(&server, "running").await;
    client.publish("made", Some("o-2"), "{}").await;
    receiver.wait_for(1).await;
    server.stop().await;
    for (url, tls, words) in [
        // The server's certificate is of nobody who is known.
        (rabbit.tls_url(), String::new(), "TLS: invalid peer certificate: UnknownIssuer"),
        // The server wants one of the client.
        (rabbit.tls_url(), format!("tls = {{ ca = '{shown}/ca.pem' }}"), "cannot connect to amqps://"),
        // TLS is demanded, and the port has none.
        (rabbit.url().replace("amqp:", "amqps:"), tls, "cannot connect to amqps://"),
    ] {
        let other = tempfile::tempdir().unwrap();
        let (server, _receiver) = serve(&format!("{}\n{tls}", text(&url)), other.path()).await;
        fails_with(&server, words).await;
        server.stop().await;
    }
}
