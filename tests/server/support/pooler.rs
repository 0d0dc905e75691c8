//! A pooler as `PgBouncer` in transaction mode: all connections share one session of the server, and no statement can be
//! prepared.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, SimpleQueryMessage};

const SSL_REQUEST: u32 = 80_877_103;

/// Listens until it is dropped.
pub(crate) struct Pooler {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pooler {
    pub(crate) async fn before(server: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = Arc::new(server);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                connections.spawn(async move { serve(client, &server).await });
            }
        });
        Self { address, task }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("it is short");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

async fn serve(mut client: TcpStream, server: &Client) -> io::Result<()> {
    loop {
        let length = client.read_u32().await?;
        let mut greeting = vec![0; usize::try_from(length).expect("it fits") - 4];
        client.read_exact(&mut greeting).await?;
        if greeting[..4] != SSL_REQUEST.to_be_bytes() {
            break;
        }
        client.write_all(b"N").await?;
    }
    let ready = message(b'Z', b"I");
    let welcome = [message(b'R', &0_u32.to_be_bytes()), message(b'K', &[0; 8]), ready.clone()].concat();
    client.write_all(&welcome).await?;
    loop {
        let kind = client.read_u8().await?;
        let length = client.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).expect("it fits") - 4];
        client.read_exact(&mut body).await?;
        let mut answer = Vec::new();
        match kind {
            b'Q' => {
                let sql = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                for row in server.simple_query(&sql).await.expect("the server answers") {
                    match row {
                        SimpleQueryMessage::Row(row) => answer.extend(first_column(row.get(0).unwrap_or_default())),
                        SimpleQueryMessage::CommandComplete(_) => answer.extend(message(b'C', b"SELECT 1\0")),
                        _ => {}
                    }
                }
                answer.extend(&ready);
            }
            b'S' => {
                let error = b"SERROR\0VERROR\0C26000\0Mprepared statement \"s0\" does not exist\0\0";
                answer.extend(message(b'E', error));
                answer.extend(&ready);
            }
            b'X' => return Ok(()),
            _ => {}
        }
        client.write_all(&answer).await?;
    }
}

/// A row of one text, with its description.
fn first_column(text: &str) -> Vec<u8> {
    let mut description = b"\0\x01column\0".to_vec();
    description.extend([0; 6]);
    description.extend(25_u32.to_be_bytes());
    description.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let mut row = b"\0\x01".to_vec();
    row.extend(u32::try_from(text.len()).expect("it is short").to_be_bytes());
    row.extend(text.as_bytes());
    [message(b'T', &description), message(b'D', &row)].concat()
}
