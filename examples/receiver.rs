//! A receiver that takes only what is signed with its secret; `examples/deliver.rs` posts to it.
//!
//! `cargo run --example receiver -- --secret 0123456789abcdef [--listen 127.0.0.1:8080]`
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use postrider::event::MAX_EVENT_BYTES;
use postrider::signing::{Secret, verify_decnet};

/// The signature is checked over the bytes as they came, before anything parses them.
async fn receive(secret: &Secret, request: Request<Incoming>) -> (StatusCode, String) {
    let (head, body) = request.into_parts();
    // The body is the event with an envelope around it.
    let Ok(body) = Limited::new(body, 2 * MAX_EVENT_BYTES).collect().await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "too large".to_owned());
    };
    let body = body.to_bytes();
    match verify_decnet(secret, &head.headers, &body) {
        Ok(()) => {
            println!("{}", String::from_utf8_lossy(&body));
            (StatusCode::OK, "thank you".to_owned())
        }
        Err(error) => (StatusCode::UNAUTHORIZED, error.to_string()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let secret =
        Arc::new(Secret::parse(value("--secret").ok_or("usage: receiver --secret SECRET [--listen ADDRESS]")?)?);
    let listener = tokio::net::TcpListener::bind(value("--listen").unwrap_or("127.0.0.1:8080")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let secret = Arc::clone(&secret);
        let answer = move |request| {
            let secret = Arc::clone(&secret);
            async move {
                let (status, text) = receive(&secret, request).await;
                let mut answer = Response::new(Full::new(Bytes::from(text)));
                *answer.status_mut() = status;
                Ok::<_, Infallible>(answer)
            }
        };
        let service = hyper::service::service_fn(answer);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
