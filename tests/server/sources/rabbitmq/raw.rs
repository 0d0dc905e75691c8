//! A publisher that writes frames of AMQP by itself, so that it can send what a client's types forbid.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_BYTES: usize = 7;

pub(super) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub(super) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Tables that stand one in another.
pub(super) fn nested(depth: usize) -> Vec<u8> {
    (1..depth).fold(long(b""), |inside, _| long(&[&short(b"a")[..], b"F", &inside].concat()))
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, channel][..], &long(payload), &[0xce]].concat()
}

fn method(channel: u8, class: u8, id: u8, arguments: &[u8]) -> Vec<u8> {
    frame(1, channel, &[&[0, class, 0, id], arguments].concat())
}

pub(super) struct Publisher(TcpStream);

impl Publisher {
    /// `url`: as in a source.
    pub(super) async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("amqp://").unwrap();
        let mut publisher = Self(TcpStream::connect(address).await.unwrap());
        publisher.send(b"AMQP\0\0\x09\x01").await;
        publisher.answered(10, 10).await;
        let login = [long(b""), short(b"PLAIN"), long(b"\0guest\0guest"), short(b"en_US")].concat();
        publisher.send(&method(0, 10, 11, &login)).await;
        publisher.answered(10, 30).await;
        publisher
            .send(&method(0, 10, 31, &[&2_047_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes()[..], &[0, 0]].concat()))
            .await;
        publisher.send(&method(0, 10, 40, &[short(b"/"), short(b""), vec![0]].concat())).await;
        publisher.answered(10, 41).await;
        publisher.send(&method(1, 20, 10, &short(b""))).await;
        publisher.answered(20, 11).await;
        publisher
    }

    /// `flags` say which properties there are.
    pub(super) async fn publish(&mut self, exchange: &str, key: &[u8], flags: u16, properties: &[u8], body: &[u8]) {
        let to = [&[0, 0][..], &short(exchange.as_bytes()), &short(key), &[0]].concat();
        let head = [&[0, 60, 0, 0], &(body.len() as u64).to_be_bytes()[..], &flags.to_be_bytes(), properties].concat();
        self.send(&[method(1, 60, 40, &to), frame(2, 1, &head), frame(3, 1, body)].concat()).await;
    }

    /// Waits until the server has all of it.
    pub(super) async fn close(mut self) {
        self.send(&method(1, 20, 40, &[&[0, 200][..], &short(b""), &[0; 4]].concat())).await;
        self.answered(20, 41).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn answered(&mut self, class: u8, id: u8) {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.0.read_exact(&mut head).await.unwrap();
            let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload).await.unwrap();
            assert!(head[0] != 1 || payload[..4] != [0, 20, 0, 40], "{}", String::from_utf8_lossy(&payload));
            if head[0] == 1 && payload[..4] == [0, class, 0, id] {
                return;
            }
        }
    }
}
