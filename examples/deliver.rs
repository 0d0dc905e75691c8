//! Posts one event to a receiver, signed both ways:
//!
//! ```sh
//! cargo run --example receiver -- --secret 0123456789abcdef &
//! cargo run --example deliver -- http://127.0.0.1:8080/hook --secret 0123456789abcdef
//! ```
//!
//! `--secret` gives the DECNET key; the Standard Webhooks key is drawn and shown.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use postrider::clock::{Clock, SystemClock};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::{DeliverOptions, deliver};
use postrider::event::Event;
use postrider::signing::{Secret, SigningKeys, StandardKey};
use postrider::topic::Topic;
use postrider::webhook::Webhook;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, secret) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [url] => (url, Secret::generate()),
        [url, "--secret", secret] => (url, Secret::parse(secret)?),
        _ => return Err("usage: deliver URL [--secret SECRET]".into()),
    };
    let keys = SigningKeys::new(secret, StandardKey::generate());
    println!("signing with {} and {}", keys.decnet.expose(), *keys.standard.expose());
    let webhook = Webhook::new(url, keys)?;

    // The example's receiver is on this machine; by default nothing private can be reached.
    let policy =
        EgressPolicy { allow_private: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?], ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() })?;

    let topic = Topic::parse("attacker.session.started")?;
    let event = Event::new(topic, "session", r#"{"src": "198.51.100.7"}"#, SystemClock.now())?;
    let result = deliver(&client, &webhook, &event, &DeliverOptions::default()).await;
    println!("{} after {} attempt(s): {result:?}", if result.ok { "delivered" } else { "failed" }, result.attempts);
    if result.ok { Ok(()) } else { Err("not delivered".into()) }
}
