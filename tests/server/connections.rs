//! The real program with few places for connections, and clients that take all that they can get.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::program;
use crate::support::program::Program;

/// Of 256 files 64 are for clients.
const FILES: u32 = 256;
const PLACES: u8 = 64;
/// So much may take 20 s to arrive.
const BODY_BYTES: usize = 250_000;
/// What an answer may take. A head that does not come is waited for much longer.
const SOON: Duration = Duration::from_secs(8);

/// A connection of the peer with this number.
async fn connect(server: &Program, peer: u8) -> TcpStream {
    let connecting = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, peer), 0)))?;
        socket.connect(server.caller.address().parse().expect("an address")).await
    };
    connecting.await.expect("the server can be reached")
}

/// A request, as it is sent.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{fields}\r\n", program::TOKEN)
}

/// The status of an answer; 0: the connection ended without one.
async fn status(stream: &mut TcpStream, request: &str) -> u16 {
    let ask = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a length"));
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        head.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(SOON, ask).await.expect("an answer comes soon").unwrap_or(0)
}

async fn is_open(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    read.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_give_their_places_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start_limited(FILES, folder.path(), &[], Stdio::inherit());
    let mut silent = Vec::new();
    for n in 0..3 * PLACES {
        let mut stream = connect(&server, n).await;
        // The half of a head is none.
        stream.write_all(b"POST /api/v1/events HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        silent.push(stream);
    }
    // New ones keep their places for a moment, whatever comes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (path, wanted) in [("/healthz", 200), ("/readyz", 200), ("/api/v1/stats", 200), ("/nowhere", 404)] {
        let mut stream = connect(&server, 250).await;
        assert_eq!(status(&mut stream, &request(&format!("GET {path}"), "")).await, wanted, "{path}");
        // It is kept for the next request: others have waited longer.
        assert_eq!(status(&mut stream, &request("GET /healthz", "")).await, 200);
    }
    let metrics = server.caller.text("/metrics").await;
    let let_go = metrics.lines().find_map(|line| line.strip_prefix("postrider_connections_let_go_total ")).unwrap();
    assert!(let_go.parse::<u32>().unwrap() >= u32::from(PLACES), "{let_go}");
    assert!(!is_open(&mut silent[0]).await, "the oldest goes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_has_its_share_of_the_connections_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &["--max-connections-per-peer", "5"], Stdio::inherit());
    let mut streams = Vec::new();
    for n in 0..7 {
        if n == 5 {
            // New ones keep their places for a moment, whatever comes.
            let beyond = status(&mut connect(&server, 1).await, &request("GET /api/v1/stats", "")).await;
            assert_eq!(beyond, 503);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        streams.push(connect(&server, 1).await);
        // In the order in which they came.
        assert_eq!(status(streams.last_mut().unwrap(), &request("GET /healthz", "")).await, 200);
    }
    let mut open = Vec::new();
    for stream in &mut streams {
        open.push(status(stream, &request("GET /healthz", "")).await == 200);
    }
    assert_eq!(open, [false, false, true, true, true, true, true]);
    assert_eq!(status(&mut connect(&server, 2).await, &request("GET /healthz", "")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_connections_are_busy_the_health_of_the_server_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start_limited(FILES, folder.path(), &[], Stdio::inherit());
    let mut busy = Vec::new();
    let body = format!("{{\"topic\": \"a\", \"payload\": \"{}\"}}", "x".repeat(BODY_BYTES));
    let (early, late) = body.split_at(BODY_BYTES - 1_000);
    let fields =
        format!("Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n", body.len());
    for n in 0..PLACES {
        let mut stream = connect(&server, n).await;
        // The server says that it waits for the body.
        assert_eq!(status(&mut stream, &request("POST /api/v1/events", &fields)).await, 100, "{n}");
        stream.write_all(early.as_bytes()).await.unwrap();
        busy.push(stream);
    }
    for (path, wanted) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/api/v1/stats", 503)] {
        // More often than there are places in the reserve.
        for n in 0..20 {
            let mut stream = connect(&server, 100 + n).await;
            assert_eq!(status(&mut stream, &request(&format!("GET {path}"), "")).await, wanted, "{path}");
        }
    }
    // What says nothing does not keep the reserve from others.
    let mut silent = Vec::new();
    for n in 0..40 {
        silent.push(connect(&server, 150 + n).await);
    }
    assert_eq!(status(&mut connect(&server, 200).await, &request("GET /healthz", "")).await, 200);
    // Those who came first are served to the end.
    for mut stream in busy {
        assert_eq!(status(&mut stream, late).await, 202);
    }
    assert_eq!(status(&mut connect(&server, 200).await, &request("GET /api/v1/stats", "")).await, 200);
}
