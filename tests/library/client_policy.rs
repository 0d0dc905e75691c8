//! A webhook's own headers, credentials, authorities, client certificate and proxy: what the receiver gets, and
//! what neither user, nor proxy, nor token endpoint can get past.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider::clock::{Clock, ManualClock, SystemClock, UnixMicros};
use postrider::delivery::access::{
    Access, AuthStyle, EXPIRY_MARGIN, LoginMethod, RawAccess, RawAuth, RawClientCertificate, RawProxy, Resolution,
};
use postrider::delivery::attempt::{Message, attempt};
use postrider::delivery::client::{CONFIRM_AFTER, Client, ClientOptions, Connection, Roots};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::{DeliverOptions, End, Outcome, deliver};
use postrider::signing::{verify_decnet, verify_standard};
use postrider::webhook::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::receivers::{Names, Received, Receiver, client, client_asking, event, read_request, webhook, write};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How late an attempt may end on a busy machine.
const GRACE: Duration = Duration::from_secs(4);

/// Answers 200 to each request and hands it out.
async fn receiving() -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = unbounded_channel();
    let receiver = Receiver::start(move |stream| serve(stream, seen.clone())).await;
    (receiver, requests)
}

async fn serve(mut stream: TcpStream, seen: UnboundedSender<Received>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.send(request).unwrap();
        write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }
}

fn with(url: &str, raw: RawAccess) -> Webhook {
    Webhook { access: Access::new(raw).unwrap(), ..webhook(url, TIMEOUT) }
}

async fn attempt_on(slot: &mut Option<Connection>, client: &Client, webhook: &Webhook) -> Outcome {
    attempt_at(slot, client, webhook, &SystemClock).await
}

async fn attempt_at(slot: &mut Option<Connection>, client: &Client, webhook: &Webhook, clock: &dyn Clock) -> Outcome {
    let event = event(r#"{"topic": "attacker.session.started", "id": "evt_1"}"#);
    attempt(client, slot, webhook, &Message::of(&event), "msg_1", clock).await
}

async fn attempt_once(client: &Client, webhook: &Webhook) -> Outcome {
    attempt_on(&mut None, client, webhook).await
}

fn error_of(outcome: &Outcome) -> String {
    outcome.error_text().unwrap_or_else(|| panic!("no error: {outcome:?}"))
}

fn headers(pairs: &[(&str, &str)]) -> RawAccess {
    let headers = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    RawAccess { headers, ..RawAccess::default() }
}

// --- headers and credentials ---

#[tokio::test]
async fn own_headers_and_the_content_type_arrive_beside_postrider_s() {
    let (receiver, mut requests) = receiving().await;
    let raw = RawAccess {
        content_type: Some("application/vnd.siem+json".to_owned()),
        ..headers(&[("X-Team", "blue team"), ("User-Agent", "siem-feed/2"), ("Authorization", "Splunk 1234")])
    };
    let webhook = with(&receiver.url(), raw);

    assert!(attempt_once(&client(Roots::WebPki), &webhook).await.is_success());

    let request = requests.recv().await.unwrap();
    for name in ["X-Team", "User-Agent", "Authorization"] {
        assert!(request.header_names.iter().any(|sent| sent == name), "{name} goes out as it is spelled");
    }
    for (name, value) in [
        ("x-team", "blue team"),
        ("user-agent", "siem-feed/2"),
        ("authorization", "Splunk 1234"),
        ("content-type", "application/vnd.siem+json"),
        ("x-decnet-event-id", "evt_1"),
        ("x-decnet-event-topic", "attacker.session.started"),
    ] {
        assert_eq!(request.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    verify_decnet(&webhook.keys.decnet, &request.headers, &request.body).unwrap();
    verify_standard(&webhook.keys.standard, &request.headers, &request.body, SystemClock.now(), 300).unwrap();
}

#[tokio::test]
async fn a_message_that_is_no_event_is_signed_and_sent_as_it_is() {
    let (receiver, mut requests) = receiving().await;
    let message = Message {
        event_id: "batch_1",
        kind: "",
        topic: None,
        body: Bytes::from_static(b"<event/>"),
        content_type: Some("application/xml".parse().unwrap()),
        hops: Some("1; via=0123456789abcdef".parse().unwrap()),
        headers: &[],
        more_headers: &[],
    };
    let own = RawAccess { content_type: Some("text/xml".to_owned()), ..RawAccess::default() };
    for (access, content_type) in [(RawAccess::default(), "application/xml"), (own, "text/xml")] {
        let webhook = with(&receiver.url(), access);
        let client = client(Roots::WebPki);
        let outcome = attempt(&client, &mut None, &webhook, &message, "msg_1", &SystemClock).await;
        assert!(outcome.is_success(), "{outcome:?}");
        let request = requests.recv().await.unwrap();
        assert_eq!(request.body, b"<event/>");
        assert_eq!(request.headers["content-type"], content_type);
        assert_eq!(request.headers["x-decnet-event-id"], "batch_1");
        assert!(!request.headers.contains_key("x-decnet-event-topic"));
        assert_eq!(request.headers["postrider-hops"], "1; via=0123456789abcdef");
        verify_decnet(&webhook.keys.decnet, &request.headers, &request.body).unwrap();
    }
}

#[tokio::test]
async fn basic_and_bearer_credentials_arrive() {
    let (receiver, mut requests) = receiving().await;
    let basic = RawAuth::Basic { username: "Aladdin".to_owned(), password: "open sesame".into() };
    let bearer = RawAuth::Bearer { token: "t0ken".into() };
    for (auth, expected) in [(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), (bearer, "Bearer t0ken")] {
        let webhook = with(&receiver.url(), RawAccess { auth: Some(auth), ..RawAccess::default() });
        assert!(attempt_once(&client(Roots::WebPki), &webhook).await.is_success());
        assert_eq!(requests.recv().await.unwrap().headers["authorization"], expected);
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_no_secret_with_it() {
    let raw = RawAccess {
        content_type: Some("json".to_owned()),
        auth: Some(RawAuth::Bearer { token: "geheim\n".into() }),
        ca: Some("geheim".to_owned()),
        client_certificate: Some(RawClientCertificate { certificate: "x".to_owned(), key: "geheim".into() }),
        proxy: Some(RawProxy { url: "http://a:geheim@b".into(), resolve: Resolution::Here }),
        ..headers(&[("X-Evil", "geheim\r\nHost: inside"), ("X-Decnet-Signature", "geheim")])
    };
    let errors = Access::new(raw.clone()).unwrap_err();
    let fields: Vec<_> = errors.iter().map(|error| error.field).collect();
    assert_eq!(
        fields,
        ["headers", "headers", "content_type", "auth", "ca", "client_certificate", "proxy"],
        "{errors:?}"
    );
    assert!(!format!("{errors:?}").contains("geheim"), "{errors:?}");

    let twice = RawAccess { auth: Some(RawAuth::Bearer { token: "t".into() }), ..headers(&[("AUTHORIZATION", "x")]) };
    assert_eq!(Access::new(twice).unwrap_err()[0].field, "headers");
}

#[test]
fn what_is_shown_holds_no_secret_and_cannot_be_given_back() {
    let (certificate, key) = tls::self_signed_pair();
    let raw = RawAccess {
        auth: Some(RawAuth::Basic { username: "me".to_owned(), password: "geheim".into() }),
        client_certificate: Some(RawClientCertificate { certificate, key: key.as_str().into() }),
        proxy: Some(RawProxy { url: "http://me:geheim@proxy.example:3128".into(), resolve: Resolution::Here }),
        ..headers(&[("X-Team", "blue"), ("X-Api-Key", "geheim"), ("Cookie", "a=geheim"), ("X-Auth", "geheim")])
    };
    let access = Access::new(raw.clone()).unwrap();
    assert_eq!(access.raw(), &raw, "a store gets it as it was given");
    assert_eq!(access, Access::new(raw).unwrap());
    let shown = access.shown();
    let everything = shown
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", value.expose()))
        .chain([shown.proxy.as_ref().unwrap().url.expose().to_owned(), format!("{shown:?}{access:?}")])
        .collect::<String>();
    assert!(everything.contains("X-Team: …\n") && everything.contains("X-Api-Key: …\n"), "{everything}");
    assert!(everything.contains("http://me:…@proxy.example:3128"), "{everything}");
    assert!(!everything.contains("geheim") && !everything.contains("PRIVATE"), "{everything}");
    let fields: Vec<_> = Access::new(shown).unwrap_err().iter().map(|error| error.field).collect();
    assert_eq!(fields, ["headers", "headers", "headers", "headers", "auth", "client_certificate", "proxy"]);
}

#[cfg(feature = "server")]
#[test]
fn the_form_in_json_is_strict_and_complete() {
    let full = r#"{
        "headers": {"X-Team": "blue"}, "content_type": "text/plain", "ca": null,
        "auth": {"type": "oauth2", "token_url": "https://id.example/t", "client_id": "i", "client_secret": "s",
                 "scopes": ["a"], "auth_style": "body"},
        "client_certificate": {"certificate": "C", "key": "K"},
        "proxy": {"url": "socks5://p.example:1080", "resolve": "proxy"}
    }"#;
    let raw: RawAccess = serde_json::from_str(full).unwrap();
    let again = serde_json::to_string(&raw).unwrap();
    assert_eq!(serde_json::from_str::<RawAccess>(&again).unwrap(), raw, "{again}");
    let Some(RawAuth::OAuth2 { auth_style, .. }) = raw.auth else { panic!("{raw:?}") };
    assert_eq!(auth_style, AuthStyle::Body);
    assert_eq!(serde_json::from_str::<RawAccess>("{}").unwrap(), RawAccess::default());
    let refused = [
        r#"{"header": {}}"#,
        r#"{"auth": {"type": "digest"}}"#,
        r#"{"auth": {"type": "bearer", "token": "t", "password": "x"}}"#,
        r#"{"auth": {"type": "basic", "username": "u"}}"#,
        r#"{"proxy": {"url": "http://p:1", "resolve": "there"}}"#,
        r#"{"client_certificate": {"certificate": "C"}}"#,
    ];
    for text in refused {
        assert!(serde_json::from_str::<RawAccess>(text).is_err(), "{text}");
    }
}

#[test]
fn credentials_over_plain_http_are_warned_about() {
    let plain = webhook("http://receiver.example/", TIMEOUT).destination;
    let encrypted = webhook("https://receiver.example/", TIMEOUT).destination;
    let auth = Some(oauth2("http://id.example/token", AuthStyle::Basic));
    let access = Access::new(RawAccess { auth, ..RawAccess::default() }).unwrap();
    let words = |warnings: Vec<&'static str>| -> Vec<&str> {
        warnings.into_iter().map(|warning| warning.split(':').next().unwrap()).collect()
    };
    assert_eq!(words(access.warnings(&plain)), ["insecure_auth", "insecure_token_url"]);
    assert_eq!(words(access.warnings(&encrypted)), ["insecure_token_url"]);
    assert!(Access::default().warnings(&plain).is_empty() && Access::default().is_default());
}

// --- OAuth2 ---

fn oauth2(token_url: &str, auth_style: AuthStyle) -> RawAuth {
    RawAuth::OAuth2 {
        token_url: token_url.to_owned(),
        client_id: "post rider".to_owned(),
        client_secret: Some("s3cr&t".into()),
        private_key: None,
        key_id: None,
        scopes: vec!["events.write".to_owned(), "b".to_owned()],
        audience: Some("https://siem.example".to_owned()),
        resource: Some("https://siem.example/api".to_owned()),
        auth_style,
    }
}

/// Gives the tokens `t1`, `t2`, … that live for `expires_in` s; hands the requests out.
async fn token_endpoint(expires_in: u64) -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let receiver = Receiver::start(move |mut stream| {
        let (seen, count) = (seen.clone(), Arc::clone(&count));
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let body = format!(r#"{{"access_token":"t{number}","token_type":"Bearer","expires_in":{expires_in}}}"#);
                answer(&mut stream, 200, &body).await;
            }
        }
    })
    .await;
    (receiver, requests)
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> bool {
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    write(stream, answer.as_bytes()).await
}

/// Takes only these tokens, one after the other: the first until it is used up, and so on.
async fn taking(tokens: &'static [&'static str]) -> (Receiver, UnboundedReceiver<String>) {
    taking_or(tokens, 401).await
}

/// As [`taking`]; other tokens are answered with `refusal`.
async fn taking_or(tokens: &'static [&'static str], refusal: u16) -> (Receiver, UnboundedReceiver<String>) {
    let (seen, authorizations) = unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let given = request.headers["authorization"].to_str().unwrap().to_owned();
                let taken = tokens.iter().any(|token| given == format!("Bearer {token}"));
                seen.send(given).unwrap();
                answer(&mut stream, if taken { 200 } else { refusal }, "").await;
            }
        }
    })
    .await;
    (receiver, authorizations)
}

fn drain<T>(channel: &mut UnboundedReceiver<T>) -> Vec<T> {
    std::iter::from_fn(|| channel.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_for_many_attempts_at_once_and_kept_until_shortly_before_its_end() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, mut given) = taking(&["t1", "t2", "t3"]).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);
    let clock = ManualClock::at(UnixMicros(1_790_000_000_000_000));

    let attempts = (0..20).map(|_| {
        let (client, webhook) = (client.clone(), webhook.clone());
        async move { attempt_on_clock(&client, &webhook, UnixMicros(1_790_000_000_000_000)).await }
    });
    for outcome in futures_all(attempts).await {
        assert!(outcome.is_success(), "{outcome:?}");
    }
    assert_eq!(drain(&mut given), vec!["Bearer t1"; 20]);
    let of_all = drain(&mut fetches);
    assert_eq!(of_all.len(), 1, "one for all");
    let form = "grant_type=client_credentials&scope=events.write+b&audience=https%3A%2F%2Fsiem.example&resource=https%3A%2F%2Fsiem.example%2Fapi";
    assert_eq!(String::from_utf8_lossy(&of_all[0].body), form);
    // post+rider:s3cr%26t, as section 2.3.1 of RFC 6749 says.
    assert_eq!(of_all[0].headers["authorization"], "Basic cG9zdCtyaWRlcjpzM2NyJTI2dA==");
    assert_eq!(of_all[0].headers["content-type"], "application/x-www-form-urlencoded");

    for (advance, token) in
        [(Duration::from_secs(600 - 1 - EXPIRY_MARGIN.as_secs()), "Bearer t1"), (Duration::from_secs(1), "Bearer t2")]
    {
        clock.advance(advance);
        assert!(attempt_at(&mut None, &client, &webhook, &clock).await.is_success());
        assert_eq!(drain(&mut given), [token]);
    }
    // A clock that was set back says nothing about how long a token still lives.
    clock.set(UnixMicros(1_780_000_000_000_000));
    assert!(attempt_at(&mut None, &client, &webhook, &clock).await.is_success());
    assert_eq!(drain(&mut given), ["Bearer t3"]);
    assert_eq!(drain(&mut fetches).len(), 2);
}

async fn attempt_on_clock(client: &Client, webhook: &Webhook, now: UnixMicros) -> Outcome {
    attempt_at(&mut None, client, webhook, &ManualClock::at(now)).await
}

/// All of them at once.
async fn futures_all<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut running = tokio::task::JoinSet::new();
    futures.for_each(|future| {
        running.spawn(future);
    });
    running.join_all().await
}

#[tokio::test]
async fn the_client_s_secret_is_posted_if_the_endpoint_wants_it_so() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, _given) = taking(&["t1"]).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Body));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    assert!(attempt_once(&client(Roots::WebPki), &webhook).await.is_success());
    let request = fetches.recv().await.unwrap();
    assert!(!request.headers.contains_key("authorization"));
    let form = String::from_utf8(request.body).unwrap();
    assert!(form.ends_with("&client_id=post+rider&client_secret=s3cr%26t"), "{form}");
}

#[tokio::test]
async fn a_client_with_a_key_signs_an_assertion_for_each_token() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, _given) = taking(&["t1"]).await;
    let RawAuth::OAuth2 { token_url, client_id, scopes, audience, resource, .. } =
        oauth2(&endpoint.url(), AuthStyle::PrivateKeyJwt)
    else {
        unreachable!()
    };
    let private_key = Some(rcgen::KeyPair::generate().unwrap().serialize_pem().into());
    let (client_secret, key_id, auth_style) = (None, Some("key-1".to_owned()), AuthStyle::PrivateKeyJwt);
    let auth = RawAuth::OAuth2 {
        token_url,
        client_id,
        client_secret,
        scopes,
        audience,
        resource,
        auth_style,
        private_key,
        key_id,
    };
    let webhook = with(&receiver.url(), RawAccess { auth: Some(auth), ..RawAccess::default() });
    assert!(attempt_once(&client(Roots::WebPki), &webhook).await.is_success());
    let request = fetches.recv().await.unwrap();
    assert!(!request.headers.contains_key("authorization"));
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let value = |name: &str| &form.iter().find(|(key, _)| key == name).unwrap().1;
    assert_eq!(value("client_id"), "post rider");
    assert_eq!(value("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert_eq!(value("client_assertion").split('.').count(), 3);
}

// --- logins ---

/// Wazuh's API as it documents its login: basic credentials bring a token of 900 s, and events want it.
/// <https://documentation.wazuh.com/current/user-manual/api/getting-started.html>
async fn wazuh() -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let receiver = Receiver::start(move |mut stream| {
        let (seen, count) = (seen.clone(), Arc::clone(&count));
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let authorization =
                    request.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
                let authorization = authorization.unwrap_or_default();
                let path = request.path().to_owned();
                seen.send(request).unwrap();
                let valid = format!("Bearer eyJ.{}", count.load(Ordering::SeqCst));
                match path.as_str() {
                    "/security/user/authenticate" if authorization == "Basic d2F6dWgtd3VpOmdlaGVpbQ==" => {
                        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                        let body = format!(r#"{{"data": {{"token": "eyJ.{number}"}}, "error": 0}}"#);
                        answer(&mut stream, 200, &body).await;
                    }
                    "/events" if authorization == valid => {
                        answer(&mut stream, 200, r#"{"error": 0}"#).await;
                    }
                    _ => {
                        answer(&mut stream, 401, r#"{"title": "Unauthorized"}"#).await;
                    }
                }
            }
        }
    })
    .await;
    (receiver, requests)
}

fn login(url: String) -> RawAuth {
    RawAuth::Login {
        url,
        method: LoginMethod::Post,
        username: Some("wazuh-wui".to_owned()),
        password: Some("geheim".into()),
        body: None,
        token: Some("/data/token".to_owned()),
        lifetime_s: 900,
        header: None,
    }
}

#[tokio::test]
async fn a_login_brings_a_token_that_is_kept_and_renewed() {
    let (receiver, mut requests) = wazuh().await;
    let url = |path: &str| format!("http://{}{path}", receiver.addr);
    let auth = Some(login(url("/security/user/authenticate")));
    let webhook = with(&url("/events"), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);
    let clock = ManualClock::at(UnixMicros(1_790_000_000_000_000));
    let mut asked = async |expected: &[&str]| {
        assert!(attempt_at(&mut None, &client, &webhook, &clock).await.is_success());
        let paths: Vec<_> = drain(&mut requests).into_iter().map(|request| request.path().to_owned()).collect();
        assert_eq!(paths, expected);
    };
    asked(&["/security/user/authenticate", "/events"]).await;
    asked(&["/events"]).await;
    clock.advance(Duration::from_secs(900 - EXPIRY_MARGIN.as_secs()));
    asked(&["/security/user/authenticate", "/events"]).await;

    let wrong = Some(RawAuth::Basic { username: "x".to_owned(), password: "y".into() });
    let webhook = with(&url("/security/user/authenticate"), RawAccess { auth: wrong, ..RawAccess::default() });
    assert_eq!(error_of(&attempt_once(&client, &webhook).await), "non-retryable 401");
    let auth = Some(login(url("/elsewhere")));
    let webhook = with(&url("/events"), RawAccess { auth, ..RawAccess::default() });
    assert_eq!(error_of(&attempt_once(&client, &webhook).await), "auth: no token: the login answered 401");
}

#[tokio::test]
async fn a_login_that_fails_is_not_tried_for_each_attempt() {
    for (status, asks, most) in [(401, "", 3), (429, "retry-after: 3600\r\n", 1)] {
        let (seen, mut requests) = unbounded_channel();
        let receiver = Receiver::start(move |mut stream| {
            let seen = seen.clone();
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    seen.send(request).unwrap();
                    let answer = format!("HTTP/1.1 {status} x\r\n{asks}content-length: 0\r\n\r\n");
                    write(&mut stream, answer.as_bytes()).await;
                }
            }
        })
        .await;
        let auth = Some(login(format!("http://{}/login", receiver.addr)));
        let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
        let client = client(Roots::WebPki);
        for _ in 0..30 {
            let error = error_of(&attempt_once(&client, &webhook).await);
            assert_eq!(error, format!("auth: no token: the login answered {status}"));
        }
        let logins = drain(&mut requests).len();
        assert!((1..=most).contains(&logins), "{logins} logins after {status}");
    }
}

#[tokio::test]
async fn a_login_may_post_json_and_its_token_may_have_a_header_of_its_own() {
    let (seen, mut requests) = unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let is_login = request.path() == "/login";
                seen.send(request).unwrap();
                answer(&mut stream, 200, if is_login { "tok-1\n" } else { "" }).await;
            }
        }
    })
    .await;
    let url = |path: &str| format!("http://{}{path}", receiver.addr);
    let auth = RawAuth::Login {
        url: url("/login"),
        method: LoginMethod::Put,
        username: None,
        password: None,
        body: Some(r#"{"user": "me", "pass": "geheim"}"#.into()),
        token: None,
        lifetime_s: 60,
        header: Some("X-Auth-Token".to_owned()),
    };
    let taken = RawAccess { auth: Some(auth.clone()), ..headers(&[("x-auth-token", "mine")]) };
    let error = Access::new(taken).unwrap_err();
    assert_eq!(error[0].to_string(), "\"x-auth-token\" is set by `auth` too; set one of them");
    let webhook = with(&url("/hook"), RawAccess { auth: Some(auth), ..RawAccess::default() });
    assert!(attempt_once(&client(Roots::WebPki), &webhook).await.is_success());
    let [login, delivery] = drain(&mut requests).try_into().unwrap();
    assert_eq!(
        (&*login.request_line, &*login.body),
        ("PUT /login HTTP/1.1", br#"{"user": "me", "pass": "geheim"}"#.as_slice())
    );
    assert_eq!(login.headers["content-type"], "application/json");
    assert_eq!(delivery.headers["x-auth-token"], "tok-1");
    assert!(!delivery.headers.contains_key("authorization"));
}

#[test]
fn what_is_no_login_is_refused_and_not_repeated() {
    /// The first error of a login with this in the place of what it has.
    fn refused(field: &str, value: &str) -> String {
        let mut auth = login("https://wazuh.example:55000/security/user/authenticate".to_owned());
        let RawAuth::Login { url, password, body, token, lifetime_s, header, .. } = &mut auth else { unreachable!() };
        match field {
            "url" => value.clone_into(url),
            "password" => *password = Some(value.into()),
            "body" => *body = Some(value.into()),
            "token" => *token = Some(value.to_owned()),
            "lifetime_s" => *lifetime_s = value.parse().unwrap(),
            _ => *header = Some(value.to_owned()),
        }
        let error = Access::new(RawAccess { auth: Some(auth), ..RawAccess::default() }).unwrap_err().remove(0);
        assert!(error.field == "auth" && !error.to_string().contains("geheim"), "{error}");
        error.to_string()
    }
    assert!(refused("url", "ftp://x").starts_with("url: the URL must begin with"));
    assert!(refused("token", "data.token").contains("is no JSON pointer"));
    assert!(refused("body", "[geheim]").contains("body is no JSON object"));
    assert!(refused("body", &format!("{{\"a\": \"{}\"}}", "x".repeat(4_096))).contains("the limit is 4096"));
    assert!(refused("password", "…").contains("is the sign"));
    assert!(refused("lifetime_s", "0").contains("lifetime_s is 0, must be 1 to 86400"));
    assert!(refused("header", "Host").contains("set by Postrider itself"));
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced_within_the_same_attempt() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, mut given) = taking(&["t2"]).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);

    // A token that was just made and is refused: another would be refused as well.
    let outcome = attempt_once(&client, &webhook).await;
    assert_eq!((error_of(&outcome), drain(&mut given)), ("non-retryable 401".to_owned(), vec!["Bearer t1".to_owned()]));
    // It was dropped all the same.
    assert!(attempt_once(&client, &webhook).await.is_success());
    assert_eq!(drain(&mut given), ["Bearer t2"]);

    let (other, mut given) = taking(&["t4"]).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&other.url(), RawAccess { auth, ..RawAccess::default() });
    let (lenient, _requests) = receiving().await;
    let warm = Webhook { access: webhook.access.clone(), ..with(&lenient.url(), RawAccess::default()) };
    assert!(attempt_once(&client, &warm).await.is_success(), "clones share the token, t3");
    let mut slot = None;
    assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
    assert_eq!(drain(&mut given), ["Bearer t3", "Bearer t4"]);
    assert_eq!(other.connections.load(Ordering::SeqCst), 1, "on the same connection");
    assert!(slot.is_some());
    assert_eq!(drain(&mut fetches).len(), 4);
}

#[tokio::test]
async fn a_kept_token_that_is_answered_with_403_is_replaced_once() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, mut given) = taking_or(&["t2"], 403).await;
    let (lenient, _requests) = receiving().await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);
    let warm = Webhook { access: webhook.access.clone(), ..with(&lenient.url(), RawAccess::default()) };
    assert!(attempt_once(&client, &warm).await.is_success());
    assert!(attempt_once(&client, &webhook).await.is_success());
    assert_eq!(drain(&mut given), ["Bearer t1", "Bearer t2"]);
    let (closed, mut given) = taking_or(&[], 403).await;
    let forbidden = Webhook { access: webhook.access.clone(), ..with(&closed.url(), RawAccess::default()) };
    assert_eq!(error_of(&attempt_once(&client, &forbidden).await), "non-retryable 403");
    assert_eq!(drain(&mut given), ["Bearer t2", "Bearer t3"], "and no more");
    assert_eq!(drain(&mut fetches).len(), 3);
}

#[tokio::test]
async fn a_receiver_that_refuses_every_token_gets_two_requests_an_attempt_and_no_more() {
    let (endpoint, mut fetches) = token_endpoint(600).await;
    let (receiver, mut given) = taking(&[]).await;
    let (lenient, _requests) = receiving().await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);
    let warm = Webhook { access: webhook.access.clone(), ..with(&lenient.url(), RawAccess::default()) };
    assert!(attempt_once(&client, &warm).await.is_success());
    let result = deliver(&client, &webhook, &event(r#"{"topic": "a"}"#), &DeliverOptions::default()).await;
    assert_eq!((result.error.as_deref(), result.attempts), (Some("non-retryable 401"), 1));
    assert_eq!(drain(&mut given), ["Bearer t1", "Bearer t2"]);
    assert_eq!(drain(&mut fetches).len(), 2);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_it_is_tried_again() {
    let refusing = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        answer(&mut stream, 401, r#"{"error":"invalid_client","error_description":"<b>s3cr&t</b>"}"#).await;
    })
    .await;
    let garbage = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        write(&mut stream, b"SSH-2.0-OpenSSH\r\n").await;
    })
    .await;
    let flooding = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        answer(&mut stream, 200, &" ".repeat(1 << 20)).await;
    })
    .await;
    let redirecting = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        write(&mut stream, b"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let silent = Receiver::start(async |_stream| std::future::pending::<()>().await).await;
    let (receiver, _requests) = receiving().await;
    let cases = [
        (&refusing, "auth: no token: the token endpoint answered 401 (invalid_client)"),
        (&garbage, "auth: no token: protocol: "),
        (&flooding, "auth: no token: protocol: the answer has more than 65536 bytes"),
        (&redirecting, "auth: no token: the token endpoint answered 307"),
        (&silent, "auth: no token within 1 s"),
    ];
    for (endpoint, expected) in cases {
        let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
        let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
        let webhook = Webhook { timeout: Duration::from_secs(1), ..webhook };
        let began_at = Instant::now();
        let outcome = attempt_once(&client(Roots::WebPki), &webhook).await;
        assert!(began_at.elapsed() < webhook.timeout + GRACE);
        assert!(error_of(&outcome).starts_with(expected), "{outcome:?}");
        assert!(matches!(outcome.end, End::Auth(_)) && !outcome.end.counts_as_failure(), "{outcome:?}");
        let schedule = postrider::delivery::retry::Schedule::from_seconds(&[0.01]).unwrap();
        let options = DeliverOptions { schedule, ..DeliverOptions::default() };
        let result = deliver(&client(Roots::WebPki), &webhook, &event(r#"{"topic": "a"}"#), &options).await;
        assert_eq!(result.attempts, 2, "{result:?}");
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn those_who_wait_for_a_token_fail_with_the_fetch_they_wait_for() {
    let endpoint = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        answer(&mut stream, 503, "").await;
    })
    .await;
    let (receiver, _requests) = receiving().await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with(&receiver.url(), RawAccess { auth, ..RawAccess::default() });
    let client = client(Roots::WebPki);
    let attempts = (0..10).map(|_| {
        let (client, webhook) = (client.clone(), webhook.clone());
        async move { attempt_once(&client, &webhook).await }
    });
    for outcome in futures_all(attempts).await {
        assert_eq!(error_of(&outcome), "auth: no token: the token endpoint answered 503");
    }
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_endpoint_inside_is_blocked() {
    let (endpoint, _fetches) = token_endpoint(600).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let webhook = with("http://192.0.2.1/", RawAccess { auth, ..RawAccess::default() });
    let strict = Client::new(ClientOptions {
        policy: EgressPolicy { allow_private: vec!["192.0.2.0/24".parse().unwrap()], ..EgressPolicy::default() },
        ..ClientOptions::default()
    })
    .unwrap();
    let outcome = attempt_once(&strict, &webhook).await;
    assert_eq!(error_of(&outcome), "egress_blocked: token_url: 127.0.0.1 is a forbidden address (loopback)");
    assert!(!outcome.end.counts_as_failure());
    assert_eq!(strict.vet(&webhook).unwrap_err().field, "auth");
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 0);
}

// --- TLS ---

mod tls {
    use super::*;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;
    use tokio_rustls::TlsAcceptor;

    pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

    pub(super) fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    pub(super) fn self_signed_pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["client.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client's certificate by `authority`, for `name`.
    pub(super) fn client_certificate(name: &str, authority: &Authority) -> RawClientCertificate {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        RawClientCertificate { certificate: certificate.pem(), key: key.serialize_pem().into() }
    }

    fn roots(authority: &Authority) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(authority.der().clone()).unwrap();
        store
    }

    /// A server for 127.0.0.1 and receiver.example by `authority`; asks clients for a certificate by `clients`.
    pub(super) fn acceptor(authority: &Authority, clients: Option<&Authority>) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "receiver.example".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)), provider).build().unwrap(),
            ),
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()))
    }

    /// Answers 200 and hands out each request with the client's certificate and the name it asked for.
    pub(super) async fn serving(
        acceptor: TlsAcceptor,
    ) -> (Receiver, UnboundedReceiver<(Received, Option<Vec<u8>>, Option<String>)>) {
        let (seen, requests) = unbounded_channel();
        let receiver = Receiver::start(move |stream| {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while let Some(request) = read_request(&mut stream).await {
                    let session = stream.get_ref().1;
                    let certificate = session.peer_certificates().map(|chain| chain[0].to_vec());
                    let sni = session.server_name().map(str::to_owned);
                    seen.send((request, certificate, sni)).unwrap();
                    write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        (receiver, requests)
    }

    pub(super) fn https(receiver: &Receiver) -> String {
        format!("https://{}/", receiver.addr)
    }

    fn trusting(authority: &Authority) -> RawAccess {
        RawAccess { ca: Some(authority.pem()), ..RawAccess::default() }
    }

    #[tokio::test]
    async fn an_own_authority_is_trusted_for_its_webhook_beside_the_usual_ones() {
        let (ours, usual) = (authority("ours"), authority("usual"));
        let (receiver, _requests) = serving(acceptor(&ours, None)).await;
        let (public, _requests) = serving(acceptor(&usual, None)).await;
        let client = client(Roots::Custom(roots(&usual)));
        for (url, raw, expected) in [
            (https(&receiver), trusting(&ours), None),
            (https(&public), trusting(&ours), None),
            (https(&public), RawAccess::default(), None),
            (https(&receiver), RawAccess::default(), Some("authority is unknown")),
            (https(&receiver), trusting(&authority("theirs")), Some("authority is unknown")),
        ] {
            let outcome = attempt_once(&client, &with(&url, raw)).await;
            match expected {
                None => assert!(outcome.is_success(), "{url}: {outcome:?}"),
                Some(expected) => assert!(error_of(&outcome).contains(expected), "{url}: {outcome:?}"),
            }
        }
        // The same webhook, used by a client with other authorities, does not keep the first one's.
        let webhook = with(&https(&public), trusting(&ours));
        assert!(attempt_once(&client, &webhook).await.is_success());
        let distrusting = super::client(Roots::Custom(roots(&authority("none"))));
        assert!(error_of(&attempt_once(&distrusting, &webhook).await).contains("authority is unknown"));
    }

    /// A server with a certificate that it has signed itself, as `openssl req -x509` makes it, and that certificate.
    fn self_signed(names: &[&str], is_authority: bool, until_year: i32) -> (TlsAcceptor, String) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.concat());
        params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der).unwrap();
        (TlsAcceptor::from(Arc::new(config)), certificate.pem())
    }

    #[tokio::test]
    async fn a_certificate_that_was_given_itself_is_trusted_where_it_stands() {
        const MINE: &str = "127.0.0.1";
        for is_authority in [false, true] {
            let (acceptor, pem) = self_signed(&[MINE], is_authority, 2099);
            let (receiver, _requests) = serving(acceptor).await;
            let (_, other) = self_signed(&["other.example"], is_authority, 2099);
            let attempt = async |ca: &[&str]| {
                let raw = RawAccess { ca: Some(ca.concat()), ..RawAccess::default() };
                attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await
            };
            for ca in [[&*pem, &*other], [&*other, &*pem]] {
                assert!(attempt(&ca).await.is_success(), "CA:{is_authority}");
            }
            let error = error_of(&attempt(&[&other]).await);
            let expected = if is_authority { "give this certificate itself as `ca`" } else { "give it as `ca`" };
            assert!(error.ends_with(expected), "{error}");
        }
        for (names, until_year, expected) in [
            (
                &["localhost", "a.example"][..],
                2099,
                "tls: the certificate is for localhost, a.example and not for 127.0.0.1",
            ),
            (&[][..], 2099, "tls: the certificate is for no host and not for 127.0.0.1"),
            (&[MINE][..], 2020, "tls: the certificate expired on 2020-01-01"),
        ] {
            let (acceptor, pem) = self_signed(names, true, until_year);
            let (receiver, mut requests) = serving(acceptor).await;
            let raw = RawAccess { ca: Some(pem), ..RawAccess::default() };
            let outcome = attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await;
            assert_eq!(error_of(&outcome), expected);
            assert!(requests.try_recv().is_err());
        }
    }

    #[tokio::test]
    async fn a_given_certificate_without_its_key_is_worth_nothing() {
        // A server that shows our certificate and signs with another key.
        let (_, pem) = self_signed(&["127.0.0.1"], true, 2099);
        let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem.as_bytes(),
        );
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let other = PrivateKeyDer::Pkcs8(KeyPair::generate().unwrap().serialize_der().into());
        let key = provider.key_provider.load_private_key(other).unwrap();
        let stolen = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(vec![der.unwrap()], key));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(stolen));
        let (receiver, mut requests) = serving(TlsAcceptor::from(Arc::new(config))).await;
        let raw = RawAccess { ca: Some(pem), ..RawAccess::default() };
        let outcome = attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await;
        assert!(error_of(&outcome).starts_with("tls: the certificate has a signature"), "{outcome:?}");
        assert!(requests.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_receiver_may_be_known_by_another_name_than_its_url_s() {
        let ours = authority("ours");
        let (receiver, mut requests) = serving(acceptor(&ours, None)).await;
        let client = client(Roots::Custom(roots(&ours)));
        let named = |name: &str| {
            with(&https(&receiver), RawAccess { server_name: Some(name.to_owned()), ..RawAccess::default() })
        };
        let options =
            DeliverOptions { schedule: postrider::delivery::retry::Schedule::once(), ..DeliverOptions::default() };
        let message = event(r#"{"topic": "a"}"#);
        for (webhook, sni) in [
            (named("Receiver.example"), Some("receiver.example")),
            (with(&https(&receiver), RawAccess::default()), None),
            (named("receiver.example"), Some("receiver.example")),
        ] {
            assert!(deliver(&client, &webhook, &message, &options).await.ok);
            let (request, _, seen) = requests.recv().await.unwrap();
            assert_eq!(seen.as_deref(), sni);
            assert_eq!(request.headers["host"], receiver.addr.to_string(), "the request is for the URL's host");
        }
        assert_eq!(receiver.connections.load(Ordering::SeqCst), 2, "a name has connections of its own");
        let error = deliver(&client, &named("siem.internal"), &message, &options).await.error.unwrap();
        assert_eq!(error, "tls: the certificate is for 127.0.0.1, receiver.example and not for siem.internal");
    }

    #[tokio::test]
    async fn a_server_name_is_the_receiver_s_and_not_the_token_endpoint_s() {
        let (ours, theirs) = (authority("ours"), self_signed(&["siem.internal"], true, 2099));
        let (receiver, mut requests) = serving(theirs.0).await;
        let acceptor = acceptor(&ours, None);
        let endpoint = Receiver::start(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while read_request(&mut stream).await.is_some() {
                    let body = r#"{"access_token":"t"}"#;
                    write(
                        &mut stream,
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes(),
                    )
                    .await;
                }
            }
        })
        .await;
        let raw = RawAccess {
            auth: Some(oauth2(&https(&endpoint), AuthStyle::Basic)),
            ca: Some(theirs.1 + &ours.pem()),
            server_name: Some("siem.internal".to_owned()),
            ..RawAccess::default()
        };
        let outcome = attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await;
        assert!(outcome.is_success(), "{outcome:?}");
        assert_eq!(requests.recv().await.unwrap().2.as_deref(), Some("siem.internal"));
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_to_who_asks_beside_other_credentials() {
        let (ours, clients) = (authority("ours"), authority("clients"));
        let (receiver, mut requests) = serving(acceptor(&ours, Some(&clients))).await;
        let pair = client_certificate("postrider.example", &clients);
        let auth = Some(RawAuth::Bearer { token: "t".into() });
        let raw = RawAccess { client_certificate: Some(pair.clone()), auth, ..trusting(&ours) };

        assert!(attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await.is_success());

        let (request, certificate, _) = requests.recv().await.unwrap();
        assert_eq!(request.headers["authorization"], "Bearer t");
        let shown = pair.certificate.lines().filter(|line| !line.starts_with("--")).collect::<String>();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, shown.trim()).unwrap();
        assert_eq!(certificate.unwrap(), der);

        let theirs = Some(client_certificate("postrider.example", &authority("theirs")));
        for client_certificate in [None, theirs] {
            let raw = RawAccess { client_certificate, ..trusting(&ours) };
            let outcome = attempt_once(&client(Roots::WebPki), &with(&https(&receiver), raw)).await;
            assert!(!outcome.is_success(), "{outcome:?}");
        }
        assert!(requests.try_recv().is_err(), "nothing more arrived");
    }

    #[tokio::test]
    async fn a_connection_of_one_identity_is_never_used_for_another() {
        let (ours, clients) = (authority("ours"), authority("clients"));
        let (receiver, mut requests) = serving(acceptor(&ours, Some(&clients))).await;
        let client = client(Roots::Custom(roots(&ours)));
        let [first, second] = ["a.example", "b.example"].map(|name| {
            let client_certificate = Some(client_certificate(name, &clients));
            with(&https(&receiver), RawAccess { client_certificate, ..RawAccess::default() })
        });
        let nobody = with(&https(&receiver), RawAccess::default());
        let options =
            DeliverOptions { schedule: postrider::delivery::retry::Schedule::once(), ..DeliverOptions::default() };
        let message = event(r#"{"topic": "a"}"#);
        // Through the pool: each finds its own connection again.
        let mut seen = Vec::new();
        for webhook in [&first, &second, &first, &second] {
            assert!(deliver(&client, webhook, &message, &options).await.ok);
            seen.push(requests.recv().await.unwrap().1.unwrap());
        }
        assert!(seen[0] == seen[2] && seen[1] == seen[3] && seen[0] != seen[1]);
        assert_eq!(receiver.connections.load(Ordering::SeqCst), 2);
        assert!(!deliver(&client, &nobody, &message, &options).await.ok, "one without a certificate gets no free ride");
        // Through a slot, as a lane has one.
        let mut slot = None;
        assert!(attempt_on(&mut slot, &client, &first).await.is_success());
        let first_certificate = requests.recv().await.unwrap().1.unwrap();
        assert!(attempt_on(&mut slot, &client, &second).await.is_success());
        assert_ne!(requests.recv().await.unwrap().1.unwrap(), first_certificate);
        assert!(!attempt_on(&mut slot, &client, &nobody).await.is_success());
    }
}

// --- proxies ---

/// What a proxy was asked for: user and password if any, and where to connect to.
type Asked = (Option<String>, String);

/// Where a proxy connects to for a name: the receiver of a test.
type NamesAtProxy = Arc<Mutex<Vec<(String, String)>>>;

/// A real HTTP proxy: `CONNECT` and nothing else.
async fn http_proxy(names: NamesAtProxy) -> (Receiver, UnboundedReceiver<Asked>) {
    let (seen, asked) = unbounded_channel();
    let proxy = Receiver::start(move |mut stream| {
        let (seen, names) = (seen.clone(), Arc::clone(&names));
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            let target = request.request_line.strip_prefix("CONNECT ").unwrap().strip_suffix(" HTTP/1.1").unwrap();
            assert_eq!(request.headers["host"], target);
            assert!(request.header_names.len() <= 2, "nothing of the request itself: {:?}", request.header_names);
            let credentials =
                request.headers.get("proxy-authorization").map(|value| value.to_str().unwrap().to_owned());
            seen.send((credentials, target.to_owned())).unwrap();
            match TcpStream::connect(at_proxy(&names, target)).await {
                Ok(mut onward) => {
                    write(&mut stream, b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n").await;
                    let _ = copy_bidirectional(&mut stream, &mut onward).await;
                }
                Err(_) => {
                    write(&mut stream, b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        }
    })
    .await;
    (proxy, asked)
}

/// A proxy as Squid comes: no `CONNECT` to this port; it passes requests on in absolute form. It answers them itself here:
/// 407 without credentials, else 200.
async fn forwarding_proxy(refusal: u16) -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = unbounded_channel();
    let proxy = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                if request.request_line.starts_with("CONNECT ") {
                    answer(&mut stream, refusal, "<html>no</html>").await;
                    return;
                }
                let status = if request.headers.contains_key("proxy-authorization") { 200 } else { 407 };
                seen.send(request).unwrap();
                answer(&mut stream, status, "ok").await;
            }
        }
    })
    .await;
    (proxy, requests)
}

#[tokio::test]
async fn a_proxy_without_connect_passes_plain_requests_on() {
    let options =
        DeliverOptions { schedule: postrider::delivery::retry::Schedule::once(), ..DeliverOptions::default() };
    for refusal in [400, 403, 405, 501] {
        let (proxy, mut requests) = forwarding_proxy(refusal).await;
        let url = format!("http://me:pw@{}", proxy.addr);
        let client = client(Roots::WebPki);
        let by_address = with("http://127.0.0.1:4242/in?x=1", through(&url, Resolution::Here));
        for _ in 0..2 {
            let result = deliver(&client, &by_address, &event(r#"{"topic": "a"}"#), &options).await;
            assert!(result.ok, "{refusal}: {result:?}");
            let request = requests.recv().await.unwrap();
            assert_eq!(request.request_line, "POST http://127.0.0.1:4242/in?x=1 HTTP/1.1");
            assert_eq!(request.headers["host"], "127.0.0.1:4242");
            assert_eq!(request.headers["proxy-authorization"], "Basic bWU6cHc=");
            assert!(request.headers.contains_key("x-decnet-signature") && !request.body.is_empty());
        }
        assert_eq!(proxy.connections.load(Ordering::SeqCst), 2, "one for CONNECT, and one that is kept");

        // Over TLS nothing but a way through will do.
        let encrypted = with("https://127.0.0.1:4242/", through(&url, Resolution::Here));
        assert_eq!(error_of(&attempt_once(&client, &encrypted).await), format!("proxy: answered {refusal}"));
        let anonymous = with("http://127.0.0.1:4242/", through(&format!("http://{}", proxy.addr), Resolution::Here));
        let outcome = attempt_once(&client, &anonymous).await;
        assert_eq!(error_of(&outcome), "proxy: answered 407 (it asks for other credentials, or for some)");
        assert!(!outcome.end.counts_as_failure(), "the receiver has nothing to do with it");
    }
}

#[tokio::test]
async fn a_proxy_that_passes_requests_on_gets_no_name_unless_it_may_resolve_names() {
    let (proxy, mut requests) = forwarding_proxy(403).await;
    let url = format!("http://me:pw@{}", proxy.addr);
    let names = Names::default();
    names.set(&["127.0.0.1"]);
    let here = client_asking(Roots::WebPki, names.resolver());
    let by_name = |resolve| with("http://receiver.example/in", through(&url, resolve));
    let outcome = attempt_once(&here, &by_name(Resolution::Here)).await;
    let error = error_of(&outcome);
    assert!(
        error.starts_with("proxy: answered 403 to CONNECT; ") && error.contains("\"resolve\": \"proxy\""),
        "{error}"
    );
    assert!(requests.try_recv().is_err());
    let policy = EgressPolicy { allow_all_private: true, allow_proxy_resolution: true, ..EgressPolicy::default() };
    let there = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    assert!(attempt_once(&there, &by_name(Resolution::Proxy)).await.is_success());
    let request = requests.recv().await.unwrap();
    assert_eq!(request.request_line, "POST http://receiver.example/in HTTP/1.1");
    assert_eq!(request.headers["host"], "receiver.example");
}

#[tokio::test]
async fn a_proxy_may_be_spoken_to_over_tls() {
    let ours = tls::authority("ours");
    let acceptor = tls::acceptor(&ours, None);
    let proxy = Receiver::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Some(request) = read_request(&mut stream).await else { return };
            assert_eq!(request.headers["proxy-authorization"], "Basic bWU6cHc=");
            let target = request.request_line.strip_prefix("CONNECT ").unwrap().strip_suffix(" HTTP/1.1").unwrap();
            let mut onward = TcpStream::connect(target).await.unwrap();
            write(&mut stream, b"HTTP/1.1 200 Connection established\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut onward).await;
        }
    })
    .await;
    let (plain, mut plain_requests) = receiving().await;
    let (encrypted, mut encrypted_requests) = tls::serving(tls::acceptor(&ours, None)).await;
    let url = format!("https://me:pw@{}", proxy.addr);
    let raw = RawAccess { ca: Some(ours.pem()), ..through(&url, Resolution::Here) };
    let client = client(Roots::WebPki);
    for url in [plain.url(), tls::https(&encrypted)] {
        let mut slot = None;
        for _ in 0..2 {
            let outcome = attempt_on(&mut slot, &client, &with(&url, raw.clone())).await;
            assert!(outcome.is_success(), "{url}: {outcome:?}");
        }
    }
    assert_eq!((drain(&mut plain_requests).len(), drain(&mut encrypted_requests).len()), (2, 2));
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 2, "each is kept");
    let outcome = attempt_once(&client, &with(&plain.url(), through(&url, Resolution::Here))).await;
    assert_eq!(error_of(&outcome), "proxy: tls: the certificate's authority is unknown; give it as `ca`");
    assert!(!outcome.end.counts_as_failure());
}

fn at_proxy(names: &NamesAtProxy, target: &str) -> String {
    let names = names.lock().unwrap();
    names.iter().find(|(name, _)| name == target).map_or(target, |(_, address)| address).to_owned()
}

/// A real SOCKS5 proxy; `user` and `password` are wanted if there are any.
async fn socks5_proxy(wanted: Option<&'static str>, names: NamesAtProxy) -> (Receiver, UnboundedReceiver<Asked>) {
    let (seen, asked) = unbounded_channel();
    let proxy = Receiver::start(move |mut stream| {
        let (seen, names) = (seen.clone(), Arc::clone(&names));
        async move {
            let _ = speak_socks5(&mut stream, wanted, &seen, &names).await;
        }
    })
    .await;
    (proxy, asked)
}

async fn speak_socks5(
    stream: &mut TcpStream,
    wanted: Option<&'static str>,
    seen: &UnboundedSender<Asked>,
    names: &NamesAtProxy,
) -> std::io::Result<()> {
    let read_string = async |stream: &mut TcpStream| {
        let mut text = vec![0; usize::from(stream.read_u8().await?)];
        stream.read_exact(&mut text).await?;
        std::io::Result::Ok(String::from_utf8(text).unwrap())
    };
    assert_eq!(stream.read_u8().await?, 5);
    let mut methods = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut methods).await?;
    let method = if wanted.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return stream.write_all(&[5, 0xff]).await;
    }
    stream.write_all(&[5, method]).await?;
    let mut credentials = None;
    if wanted.is_some() {
        assert_eq!(stream.read_u8().await?, 1);
        let given = format!("{}:{}", read_string(stream).await?, read_string(stream).await?);
        let is_right = wanted == Some(&*given);
        stream.write_all(&[1, u8::from(!is_right)]).await?;
        if !is_right {
            return Ok(());
        }
        credentials = Some(given);
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!(head[..3], [5, 1, 0]);
    let host = match head[3] {
        1 => std::net::Ipv4Addr::from(stream.read_u32().await?).to_string(),
        3 => read_string(stream).await?,
        4 => format!("[{}]", std::net::Ipv6Addr::from(stream.read_u128().await?)),
        other => panic!("address type {other}"),
    };
    let target = format!("{host}:{}", stream.read_u16().await?);
    seen.send((credentials, target.clone())).unwrap();
    match TcpStream::connect(at_proxy(names, &target)).await {
        Ok(mut onward) => {
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            copy_bidirectional(stream, &mut onward).await.map(|_| ())
        }
        Err(_) => stream.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
    }
}

fn through(url: &str, resolve: Resolution) -> RawAccess {
    RawAccess { proxy: Some(RawProxy { url: url.into(), resolve }), ..RawAccess::default() }
}

/// A client whose operator lets proxies resolve names, and that may contact loopback.
fn delegating(resolver: postrider::delivery::guard::SharedResolver) -> Client {
    let policy = EgressPolicy {
        allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        allow_proxy_resolution: true,
        ..EgressPolicy::default()
    };
    Client::new(ClientOptions { policy, resolver: Some(resolver), ..ClientOptions::default() }).unwrap()
}

#[tokio::test]
async fn through_a_proxy_the_checked_address_is_asked_for_and_the_name_stays_in_host() {
    let (receiver, mut requests) = receiving().await;
    let (http, mut http_asked) = http_proxy(NamesAtProxy::default()).await;
    let (socks, mut socks_asked) = socks5_proxy(Some("us@er:p:w"), NamesAtProxy::default()).await;
    let (open_socks, mut open_asked) = socks5_proxy(None, NamesAtProxy::default()).await;
    let names = Names::default();
    names.set(&["127.0.0.1"]);
    let client = client_asking(Roots::WebPki, names.resolver());
    let port = receiver.addr.port();
    let url = format!("http://receiver.example:{port}/hook?x=1");
    let mut deliver_twice = async |proxy: &str| {
        let webhook = with(&url, through(proxy, Resolution::Here));
        client.vet(&webhook).unwrap();
        let mut slot = None;
        for _ in 0..2 {
            let outcome = attempt_on(&mut slot, &client, &webhook).await;
            assert!(outcome.is_success(), "{proxy}: {outcome:?}");
            let request = requests.recv().await.unwrap();
            assert_eq!(request.request_line, "POST /hook?x=1 HTTP/1.1");
            assert_eq!(request.headers["host"], format!("receiver.example:{port}"));
            assert!(!request.headers.contains_key("proxy-authorization"));
            verify_decnet(&webhook.keys.decnet, &request.headers, &request.body).unwrap();
        }
    };
    // One connection each, for both.
    let address = format!("127.0.0.1:{port}");
    deliver_twice(&format!("http://us%40er:p%3Aw@{}", http.addr)).await;
    assert_eq!(drain(&mut http_asked), [(Some("Basic dXNAZXI6cDp3".to_owned()), address.clone())]);
    deliver_twice(&format!("http://{}/", http.addr)).await;
    assert_eq!(drain(&mut http_asked), [(None, address.clone())]);
    deliver_twice(&format!("socks5://us%40er:p%3Aw@{}", socks.addr)).await;
    assert_eq!(drain(&mut socks_asked), [(Some("us@er:p:w".to_owned()), address.clone())]);
    deliver_twice(&format!("socks5://{}", open_socks.addr)).await;
    assert_eq!(drain(&mut open_asked), [(None, address)]);
}

#[tokio::test]
async fn tls_goes_through_a_proxy_to_the_receiver_itself() {
    let ours = tls::authority("ours");
    let (receiver, mut requests) = tls::serving(tls::acceptor(&ours, None)).await;
    let (http, mut http_asked) = http_proxy(NamesAtProxy::default()).await;
    let (socks, _asked) = socks5_proxy(None, NamesAtProxy::default()).await;
    let names = Names::default();
    names.set(&["127.0.0.1"]);
    let client = client_asking(Roots::WebPki, names.resolver());
    let url = format!("https://receiver.example:{}/", receiver.addr.port());
    for proxy in [format!("http://{}", http.addr), format!("socks5://{}", socks.addr)] {
        let raw = RawAccess { ca: Some(ours.pem()), ..through(&proxy, Resolution::Here) };
        let outcome = attempt_once(&client, &with(&url, raw)).await;
        assert!(outcome.is_success() && outcome.exchange.timings.tls.is_some(), "{outcome:?}");
        let (_, _, sni) = requests.recv().await.unwrap();
        assert_eq!(sni.as_deref(), Some("receiver.example"));
        // The proxy is not believed about who is at the other end.
        let outcome = attempt_once(&client, &with(&url, through(&proxy, Resolution::Here))).await;
        assert!(error_of(&outcome).starts_with("tls: "), "{outcome:?}");
    }
    assert_eq!(drain(&mut http_asked)[0].1, receiver.addr.to_string());
}

#[tokio::test]
async fn a_token_is_fetched_through_the_webhook_s_proxy_and_with_its_authority() {
    let (endpoint, _fetches) = token_endpoint(600).await;
    let (receiver, _given) = taking(&["t1"]).await;
    let (http, mut asked) = http_proxy(NamesAtProxy::default()).await;
    let auth = Some(oauth2(&endpoint.url(), AuthStyle::Basic));
    let raw = RawAccess { auth, ..through(&format!("http://{}", http.addr), Resolution::Here) };
    assert!(attempt_once(&client(Roots::WebPki), &with(&receiver.url(), raw)).await.is_success());
    let targets: Vec<_> = drain(&mut asked).into_iter().map(|(_, target)| target).collect();
    assert_eq!(targets, [endpoint.addr.to_string(), receiver.addr.to_string()]);
}

#[tokio::test]
async fn an_address_that_the_proxy_cannot_reach_is_followed_by_the_next() {
    let (receiver, mut requests) = receiving().await;
    let names = Names::default();
    names.set(&["127.0.0.9", "127.0.0.1"]);
    let client = client_asking(Roots::WebPki, names.resolver());
    let url = format!("http://receiver.example:{}/", receiver.addr.port());
    let (http, _asked) = http_proxy(NamesAtProxy::default()).await;
    let (socks, _asked) = socks5_proxy(None, NamesAtProxy::default()).await;
    for proxy in [format!("http://{}", http.addr), format!("socks5://{}", socks.addr)] {
        let outcome = attempt_once(&client, &with(&url, through(&proxy, Resolution::Here))).await;
        assert!(outcome.is_success(), "{proxy}: {outcome:?}");
        assert!(requests.try_recv().is_ok());
    }
    names.set(&["127.0.0.9"]);
    for (proxy, expected) in [
        (format!("http://{}", http.addr), "connect: proxy: answered 502"),
        (format!("socks5://{}", socks.addr), "connect: proxy: the connection was refused"),
    ] {
        let outcome = attempt_once(&client, &with(&url, through(&proxy, Resolution::Here))).await;
        assert_eq!(error_of(&outcome), expected);
    }
}

#[tokio::test]
async fn a_connection_through_a_proxy_is_not_one_without_it() {
    let (receiver, _requests) = receiving().await;
    let (http, mut asked) = http_proxy(NamesAtProxy::default()).await;
    let client = client(Roots::WebPki);
    let direct = with(&receiver.url(), RawAccess::default());
    let proxied = with(&receiver.url(), through(&format!("http://{}", http.addr), Resolution::Here));
    let named = with(&receiver.url(), through(&format!("http://a:b@{}", http.addr), Resolution::Here));
    let message = event(r#"{"topic": "a"}"#);
    for _ in 0..2 {
        for webhook in [&direct, &proxied, &named] {
            assert!(deliver(&client, webhook, &message, &DeliverOptions::default()).await.ok);
        }
    }
    assert_eq!(drain(&mut asked).len(), 2, "each way has its connection, which is kept");
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_proxy_inside_is_blocked_as_any_destination_is() {
    let (proxy, _asked) = http_proxy(NamesAtProxy::default()).await;
    let names = Names::default();
    names.set(&["93.184.216.34"]);
    let strict = Client::new(ClientOptions { resolver: Some(names.resolver()), ..ClientOptions::default() }).unwrap();
    for scheme in ["http", "socks5"] {
        for resolve in [Resolution::Here, Resolution::Proxy] {
            let webhook = with("http://receiver.example/", through(&format!("{scheme}://{}", proxy.addr), resolve));
            let outcome = attempt_once(&strict, &webhook).await;
            assert!(matches!(outcome.end, End::Blocked { .. }) && !outcome.end.counts_as_failure(), "{outcome:?}");
            if resolve == Resolution::Here {
                let expected = "egress_blocked: proxy: 127.0.0.1 is a forbidden address (loopback)";
                assert_eq!(error_of(&outcome), expected);
            }
            assert_eq!(strict.vet(&webhook).unwrap_err().field, "proxy");
        }
    }
    // Neither by a name, whose address only an admin sees.
    names.set(&["10.0.0.1"]);
    let webhook = with("http://93.184.216.34/", through("http://proxy.example:3128", Resolution::Here));
    let outcome = attempt_once(&strict, &webhook).await;
    let expected = "proxy: dns: proxy.example is not there, or has a forbidden address";
    assert_eq!(error_of(&outcome), expected);
    assert!(!outcome.end.counts_as_failure(), "nothing is known of the receiver");
    let smtp = with("http://93.184.216.34/", through("http://93.184.216.34:25", Resolution::Here));
    assert!(error_of(&attempt_once(&strict, &smtp).await).contains("another protocol"));
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_proxy_is_no_way_around_the_guard() {
    let (proxy, mut asked) = http_proxy(NamesAtProxy::default()).await;
    let names = Names::default();
    let client = client_asking(Roots::WebPki, names.resolver());
    let blocked = async |url: &str| {
        let webhook = with(url, through(&format!("http://{}", proxy.addr), Resolution::Here));
        (client.vet(&webhook).map_err(|error| error.field), attempt_once(&client, &webhook).await.end)
    };
    for addresses in [["10.0.0.1", "10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["169.254.169.254", "127.0.0.1"]] {
        names.set(&addresses);
        let (vetted, end) = blocked("http://rebinding.example/").await;
        assert!(vetted.is_ok() && matches!(end, End::Dns { .. }), "{end:?}");
    }
    for url in ["http://10.0.0.1/", "http://[::ffff:10.0.0.1]/", "http://0xa9fea9fe/", "http://metadata.goog/"] {
        let (vetted, end) = blocked(url).await;
        assert!(vetted == Err("url") && matches!(end, End::Blocked(_)), "{url}: {end:?}");
    }
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 0, "{:?}", drain(&mut asked));
}

#[tokio::test]
async fn a_proxy_does_not_lead_back_to_this_server() {
    // Nothing is sent; the system says which address it would send from. Without a network it has none.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let lan = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|addr| addr.ip());
    let Ok(lan) = lan else { return eprintln!("passed over: this machine is in no network") };
    let own = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (proxy, mut asked) = http_proxy(NamesAtProxy::default()).await;
    let policy = EgressPolicy {
        allow_all_private: true,
        own_listeners: vec![own.local_addr().unwrap()],
        ..EgressPolicy::default()
    };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    let port = own.local_addr().unwrap().port();
    for host in [lan.to_string(), "127.0.0.1".to_owned()] {
        let url = format!("http://{host}:{port}/");
        let webhook = with(&url, through(&format!("http://{}", proxy.addr), Resolution::Here));
        let expected = format!("egress_blocked: {host} port {port} is this server itself");
        assert_eq!(error_of(&attempt_once(&client, &webhook).await), expected);
    }
    let itself = through(&format!("http://{lan}:{port}"), Resolution::Here);
    let outcome = attempt_once(&client, &with("http://192.0.2.1/", itself)).await;
    assert_eq!(error_of(&outcome), format!("egress_blocked: proxy: {lan} port {port} is this server itself"));
    assert!(drain(&mut asked).is_empty());
}

#[tokio::test]
async fn a_name_that_moves_inside_is_blocked_on_a_kept_connection_through_a_proxy_too() {
    let (receiver, _requests) = receiving().await;
    let (proxy, _asked) = http_proxy(NamesAtProxy::default()).await;
    let names = Names::default();
    names.set(&["127.0.0.1"]);
    let client = client_asking(Roots::WebPki, names.resolver());
    let url = format!("http://moving.example:{}/", receiver.addr.port());
    let webhook = with(&url, through(&format!("http://{}", proxy.addr), Resolution::Here));
    let mut slot = None;
    assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
    assert!(slot.is_some());
    names.set(&["10.0.0.1"]);
    tokio::time::pause();
    tokio::time::advance(CONFIRM_AFTER * 2).await;
    tokio::time::resume();
    let outcome = attempt_on(&mut slot, &client, &webhook).await;
    assert!(matches!(outcome.end, End::Dns { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_proxy_resolves_names_only_where_the_operator_lets_it() {
    let (receiver, mut requests) = receiving().await;
    let at_proxy = NamesAtProxy::default();
    let port = receiver.addr.port();
    let name = format!("only-known-there.example:{port}");
    at_proxy.lock().unwrap().push((name.clone(), receiver.addr.to_string()));
    let (http, mut http_asked) = http_proxy(Arc::clone(&at_proxy)).await;
    let (socks, mut socks_asked) = socks5_proxy(None, at_proxy).await;
    // No name resolves here.
    let (unasked, lenient) = (client(Roots::WebPki), delegating(Names::default().resolver()));
    for (proxy, asked) in
        [(format!("http://{}", http.addr), &mut http_asked), (format!("socks5://{}", socks.addr), &mut socks_asked)]
    {
        let webhook = with(&format!("http://{name}/"), through(&proxy, Resolution::Proxy));
        let outcome = attempt_once(&unasked, &webhook).await;
        let expected = "egress_blocked: this server does not let a proxy resolve names";
        assert!(error_of(&outcome).starts_with(expected), "{outcome:?}");
        assert_eq!(unasked.vet(&webhook).unwrap_err().field, "proxy");
        assert!(drain(asked).is_empty());

        lenient.vet(&webhook).unwrap();
        let mut slot = None;
        for _ in 0..2 {
            let outcome = attempt_on(&mut slot, &lenient, &webhook).await;
            assert!(outcome.is_success(), "{outcome:?}");
            assert_eq!(requests.recv().await.unwrap().headers["host"], name);
            tokio::time::pause();
            tokio::time::advance(CONFIRM_AFTER * 2).await;
            tokio::time::resume();
        }
        assert_eq!(drain(asked), [(None, name.clone())], "the name, once");

        // What can be told without an address still holds.
        for url in ["http://10.0.0.1/", "http://metadata.google.internal/", "http://localhost/", "http://a.internal/"] {
            let outcome = attempt_once(&lenient, &with(url, through(&proxy, Resolution::Proxy))).await;
            assert!(matches!(outcome.end, End::Blocked { .. }), "{url}: {outcome:?}");
        }
        assert!(drain(asked).is_empty());
    }
}

/// A proxy that answers the first bytes with `pieces` of its own, `pause` apart.
async fn misbehaving(pieces: Vec<Vec<u8>>, pause: Duration, then_hangs: bool) -> Receiver {
    let pieces = Arc::new(pieces);
    Receiver::start(move |mut stream| {
        let pieces = Arc::clone(&pieces);
        async move {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            for piece in pieces.iter() {
                if !write(&mut stream, piece).await {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
            if then_hangs {
                std::future::pending::<()>().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn proxies_that_lie_flood_drip_and_hang_cost_the_connect_timeout_at_most_and_are_named() {
    let (receiver, _requests) = receiving().await;
    let limit = Duration::from_secs(1);
    let policy = EgressPolicy { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, connect_timeout: limit, ..ClientOptions::default() }).unwrap();
    let dripping = |text: &str| text.bytes().map(|byte| vec![byte]).collect::<Vec<_>>();
    let whole = |text: &[u8]| vec![text.to_vec()];
    let (none, pause) = (Duration::ZERO, Duration::from_millis(150));
    let flood = format!("HTTP/1.1 200 OK\r\n{}", "x-a: b\r\n".repeat(1 << 17)).into_bytes();
    let cases: [(&str, Receiver, &str); 14] = [
        ("http", misbehaving(whole(b"SSH-2.0-OpenSSH_9.2\r\n"), none, true).await, "proxy: its answer is not"),
        ("http", misbehaving(whole(&flood), none, true).await, "proxy: the head of its answer has more than"),
        ("http", misbehaving(whole(b""), none, false).await, "proxy: closed the connection before"),
        ("http", misbehaving(whole(b""), none, true).await, "timeout: connect: proxy (limit 1 s)"),
        ("http", misbehaving(dripping("HTTP/1.1 200 OK\r\n\r\n"), pause, true).await, "timeout: connect: proxy"),
        ("http", misbehaving(whole(b"HTTP/1.1 407 x\r\n\r\n"), none, false).await, "proxy: answered 407"),
        ("http", misbehaving(whole(b"HTTP/1.1 403 x\r\n\r\n"), none, false).await, "proxy: answered 403"),
        (
            "http",
            misbehaving(whole(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), none, true).await,
            "proxy: it sent",
        ),
        (
            "socks5",
            misbehaving(whole(b"HTTP/1.1 400 Bad Request\r\n\r\n"), none, true).await,
            "proxy: its answer is not SOCKS5",
        ),
        ("socks5", misbehaving(whole(&[5, 0xff]), none, true).await, "proxy: asks for credentials"),
        ("socks5", misbehaving(whole(&[5, 0, 5, 2, 0, 1]), none, true).await, "proxy: does not allow"),
        ("socks5", misbehaving(whole(&[5]), none, true).await, "timeout: connect: proxy (limit 1 s)"),
        ("socks5", misbehaving(whole(&[5, 0, 5, 0, 0, 9]), none, true).await, "proxy: its answer is not SOCKS5"),
        ("socks5", misbehaving(whole(&[5, 0]), none, false).await, "proxy: "),
    ];
    for (scheme, proxy, expected) in cases {
        let webhook = with(&receiver.url(), through(&format!("{scheme}://{}", proxy.addr), Resolution::Here));
        let began_at = Instant::now();
        let outcome = attempt_once(&client, &webhook).await;
        assert!(began_at.elapsed() < limit + GRACE, "{expected}: took {:?}", began_at.elapsed());
        assert!(error_of(&outcome).starts_with(expected), "{scheme}, {expected}: {outcome:?}");
        // Where the proxy is at fault, the receiver is not.
        assert_eq!(outcome.end.counts_as_failure(), !expected.starts_with("proxy: "), "{outcome:?}");
    }
    let proxy = misbehaving(Vec::new(), none, false).await;
    let webhook = with(&receiver.url(), through(&format!("http://{}", proxy.addr), Resolution::Here));
    drop(proxy);
    tokio::task::yield_now().await;
    assert!(error_of(&attempt_once(&client, &webhook).await).starts_with("proxy: "));
    let (wrong, _asked) = socks5_proxy(Some("a:right"), NamesAtProxy::default()).await;
    let webhook = with(&receiver.url(), through(&format!("socks5://a:wrong@{}", wrong.addr), Resolution::Here));
    let expected = "proxy: refused the user name or password";
    assert_eq!(error_of(&attempt_once(&client, &webhook).await), expected);
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}

/// A client that may contact nothing private, or loopback, and whose operator has a proxy.
fn behind(proxy: &str, resolve: Resolution, no_proxy: &[&str], names: &Names, opened: &[&str]) -> Client {
    let no_proxy = no_proxy.iter().map(|rule| rule.parse().unwrap()).collect();
    let proxy = Some(RawProxy { url: proxy.into(), resolve }.for_server(no_proxy).unwrap());
    let allow_private = opened.iter().map(|net| net.parse().unwrap()).collect();
    let policy = EgressPolicy { allow_private, ..EgressPolicy::default() };
    Client::new(ClientOptions { policy, proxy, resolver: Some(names.resolver()), ..ClientOptions::default() }).unwrap()
}

#[tokio::test]
async fn the_operator_s_proxy_is_the_way_of_all_that_name_none_and_may_be_inside() {
    let (receiver, mut requests) = receiving().await;
    let (endpoint, _fetches) = token_endpoint(600).await;
    let at_proxy = NamesAtProxy::default();
    at_proxy.lock().unwrap().extend([
        ("93.184.216.34:80".to_owned(), receiver.addr.to_string()),
        ("93.184.216.34:8080".to_owned(), endpoint.addr.to_string()),
    ]);
    let (http, mut asked) = http_proxy(at_proxy).await;
    let names = Names::default();
    names.set(&["93.184.216.34"]);
    let client = behind(&format!("http://me:geheim@{}", http.addr), Resolution::Here, &[], &names, &[]);

    let webhook = with("http://receiver.example/in", RawAccess::default());
    client.vet(&webhook).unwrap();
    let mut slot = None;
    for _ in 0..2 {
        assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
        let request = requests.recv().await.unwrap();
        assert_eq!(request.headers["host"], "receiver.example");
        assert!(!request.headers.contains_key("proxy-authorization"));
    }
    let credentials = Some("Basic bWU6Z2VoZWlt".to_owned());
    assert_eq!(drain(&mut asked), [(credentials, "93.184.216.34:80".to_owned())], "one connection, a checked address");

    let auth = Some(oauth2("http://tokens.example:8080/", AuthStyle::Basic));
    let outcome =
        attempt_once(&client, &with("http://receiver.example/", RawAccess { auth, ..RawAccess::default() })).await;
    assert!(outcome.is_success(), "{outcome:?}");
    let targets: Vec<_> = drain(&mut asked).into_iter().map(|(_, target)| target).collect();
    assert_eq!(targets, ["93.184.216.34:8080", "93.184.216.34:80"], "tokens go the same way");

    // What leads inside is refused here as ever, and a webhook's own proxy may not be inside.
    for (url, raw) in [
        ("http://10.0.0.1/", RawAccess::default()),
        ("http://169.254.169.254/", RawAccess::default()),
        ("http://receiver.example/", through(&format!("http://{}", http.addr), Resolution::Here)),
        ("http://receiver.example/", through(&format!("http://{}", http.addr), Resolution::Proxy)),
    ] {
        let webhook = with(url, raw);
        assert!(client.vet(&webhook).is_err(), "{url}");
        assert!(matches!(attempt_once(&client, &webhook).await.end, End::Blocked(_)), "{url}");
    }
    names.set(&["10.0.0.1"]);
    let outcome = attempt_once(&client, &with("http://rebinding.example/", RawAccess::default())).await;
    assert!(matches!(outcome.end, End::Dns { .. }), "{outcome:?}");
    assert!(drain(&mut asked).is_empty());
}

#[tokio::test]
async fn the_operator_s_proxy_may_be_handed_names_without_a_leave_for_others() {
    let (receiver, mut requests) = receiving().await;
    let at_proxy = NamesAtProxy::default();
    at_proxy.lock().unwrap().push(("only-there.example:80".to_owned(), receiver.addr.to_string()));
    let (socks, mut asked) = socks5_proxy(Some("me:geheim"), at_proxy).await;
    // No name resolves here.
    let url = format!("socks5://me:geheim@{}", socks.addr);
    let client = behind(&url, Resolution::Proxy, &[], &Names::default(), &[]);
    let webhook = with("http://only-there.example/", RawAccess::default());
    client.vet(&webhook).unwrap();
    assert!(attempt_once(&client, &webhook).await.is_success());
    assert!(requests.try_recv().is_ok());
    assert_eq!(drain(&mut asked), [(Some("me:geheim".to_owned()), "only-there.example:80".to_owned())]);
    for (url, raw) in [
        ("http://10.0.0.1/", RawAccess::default()),
        ("http://metadata.goog/", RawAccess::default()),
        ("http://a.internal/", RawAccess::default()),
        ("http://only-there.example/", through("http://93.184.216.34:3128", Resolution::Proxy)),
    ] {
        let webhook = with(url, raw);
        assert!(client.vet(&webhook).is_err(), "{url}");
        assert!(matches!(attempt_once(&client, &webhook).await.end, End::Blocked(_)), "{url}");
    }
    assert!(drain(&mut asked).is_empty());
}

#[tokio::test]
async fn exceptions_and_webhooks_with_a_proxy_of_their_own_pass_the_operator_s_by() {
    let (receiver, mut requests) = receiving().await;
    let (operators, mut operators_asked) = http_proxy(NamesAtProxy::default()).await;
    let (own, mut own_asked) = http_proxy(NamesAtProxy::default()).await;
    let names = Names::default();
    names.set(&["127.0.0.1"]);
    let port = receiver.addr.port();
    let proxy = format!("http://{}", operators.addr);
    let client = behind(&proxy, Resolution::Here, &["direct.example", ".lan", "10.0.0.0/8"], &names, &["127.0.0.0/8"]);
    // This machine is not the proxy's.
    for host in ["direct.example", "a.direct.example.", "my_host.lan", "127.0.0.1", "localhost"] {
        let outcome = attempt_once(&client, &with(&format!("http://{host}:{port}/"), RawAccess::default())).await;
        assert!(outcome.is_success(), "{host}: {outcome:?}");
        assert!(requests.try_recv().is_ok() && drain(&mut operators_asked).is_empty(), "{host}");
    }
    let raw = through(&format!("http://{}", own.addr), Resolution::Here);
    for host in ["other.example", "direct.example"] {
        let outcome = attempt_once(&client, &with(&format!("http://{host}:{port}/"), raw.clone())).await;
        assert!(outcome.is_success(), "{host}: {outcome:?}");
        assert_eq!((drain(&mut own_asked).len(), drain(&mut operators_asked).len()), (1, 0), "{host}");
    }
    assert!(
        attempt_once(&client, &with(&format!("http://other.example:{port}/"), RawAccess::default())).await.is_success()
    );
    assert_eq!(drain(&mut operators_asked).len(), 1);
}

#[tokio::test]
async fn a_failure_of_the_operator_s_proxy_is_not_the_receiver_s_and_says_nothing_of_where_it_is() {
    let names = Names::default();
    names.set(&[]);
    let (refusing, _asked) = socks5_proxy(Some("me:other"), NamesAtProxy::default()).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (url, expected) in [
        (
            "http://me:geheim@proxy.corp.internal:3128".to_owned(),
            "proxy: the server's own proxy cannot be used (its log says why)",
        ),
        (format!("http://me:geheim@{closed}"), "proxy: connect: Connection refused (os error 111)"),
        (format!("socks5://me:geheim@{}", refusing.addr), "proxy: refused the user name or password"),
        (
            "http://me:geheim@169.254.169.254:80".to_owned(),
            "proxy: the server's own proxy cannot be used (its log says why)",
        ),
    ] {
        let client = behind(&url, Resolution::Here, &[], &names, &[]);
        let outcome = attempt_once(&client, &with("http://93.184.216.34/", RawAccess::default())).await;
        assert_eq!(error_of(&outcome), expected);
        assert!(!outcome.end.counts_as_failure());
    }
}
