//! How a proxy is asked for a way through: HTTP `CONNECT` (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//! What a proxy answers is hostile like any answer: bounded in size here, in time by the caller.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::route::{Proxy, ProxyKind};

/// The largest head of an HTTP proxy's answer to `CONNECT`, in bytes.
pub const MAX_PROXY_HEAD_BYTES: usize = 16 * 1024;

/// The statuses of proxies that know no `CONNECT`, or not to this port: Squid and Apache answer 403 or 405 where the port is
/// not that of https, others 400 or 501.
const REFUSES_CONNECT: [u16; 4] = [400, 403, 405, 501];

/// Where a proxy is asked to connect to.
pub(super) enum Hop<'a> {
    Address(SocketAddr),
    /// A name for the proxy to resolve, and a port.
    Name(&'a str, u16),
}

/// As in a request line and `Host`: `192.0.2.1:443`, `[2001:db8::1]:443`, `example.com:443`.
impl fmt::Display for Hop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Why there is no way through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether it was about the address asked for, so that another one of the receiver is worth a try. Otherwise it is
    /// the proxy's own affair.
    pub(super) another_address_may_do: bool,
    /// The status with which the proxy said that it gives no way through, at least not to this port. It may pass single
    /// requests on.
    pub(super) no_connect: Option<u16>,
}

impl Refusal {
    fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), another_address_may_do: false, no_connect: None }
    }
    fn of_address(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), another_address_may_do: true, no_connect: None }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new("closed the connection before it answered"),
            kind => Self::new(format_args!("the connection broke: {kind}")),
        }
    }
}

/// Asks the proxy at the other end of `stream` for a connection to `hop`. After it, the stream is that connection.
pub(super) async fn open<S>(stream: &mut S, proxy: &Proxy, hop: &Hop<'_>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match &proxy.kind {
        ProxyKind::Http { authorization } => {
            let mut request = Zeroizing::new(format!("CONNECT {hop} HTTP/1.1\r\nHost: {hop}\r\n").into_bytes());
            if let Some(authorization) = authorization {
                request.extend_from_slice(b"Proxy-Authorization: ");
                request.extend_from_slice(authorization.as_bytes());
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"\r\n");
            stream.write_all(&request).await?;
            read_connect_answer(stream).await
        }
        ProxyKind::Socks5 { credentials } => {
            let credentials = credentials.as_ref().map(|pair| (pair.username.as_str(), pair.password.as_str()));
            socks5(stream, credentials, hop).await
        }
    }
}

async fn read_connect_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), Refusal> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::with_capacity(512);
    let length = loop {
        let searched = head.len().saturating_sub(END.len() - 1);
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // Whatever else speaks on this port is not waited for.
        let expected = b"HTTP/1.".iter().zip(&head).all(|(expected, found)| expected == found);
        if !expected {
            return Err(Refusal::new("its answer is not HTTP/1.1"));
        }
        if let Some(at) = memmem::find(&head[searched..], END) {
            break searched + at + END.len();
        }
        if head.len() > MAX_PROXY_HEAD_BYTES {
            return Err(Refusal::new(format_args!(
                "the head of its answer has more than {MAX_PROXY_HEAD_BYTES} bytes"
            )));
        }
    };
    match status(&head) {
        Some(200..=299) if head.len() > length => Err(Refusal::new("it sent something of its own after its answer")),
        Some(200..=299) => Ok(()),
        Some(407) => Err(Refusal::new("answered 407 (it asks for other credentials, or for some)")),
        Some(status) if REFUSES_CONNECT.contains(&status) => {
            Err(Refusal { no_connect: Some(status), ..Refusal::new(format_args!("answered {status}")) })
        }
        Some(status @ 500..=599) => Err(Refusal::of_address(format_args!("answered {status}"))),
        Some(status) => Err(Refusal::new(format_args!("answered {status}"))),
        None => Err(Refusal::new("its answer is not HTTP/1.1")),
    }
}

/// The status of `HTTP/1.1 200 …`.
fn status(head: &[u8]) -> Option<u16> {
    let after_version = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = after_version.split_at_checked(3)?;
    let is_status = digits.iter().all(u8::is_ascii_digit) && matches!(rest.first(), Some(b' ' | b'\r'));
    is_status.then(|| digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USERNAME_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;

/// `credentials`: user name and password, each of 1 to 255 bytes.
async fn socks5<S>(stream: &mut S, credentials: Option<(&str, &str)>, hop: &Hop<'_>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let method = if credentials.is_some() { USERNAME_AND_PASSWORD } else { NO_AUTHENTICATION };
    // Only one is offered: credentials that were given are to be used, so that a proxy cannot be mistaken for another.
    stream.write_all(&[VERSION, 1, method]).await?;
    let [version, chosen] = read(stream).await?;
    if version != VERSION {
        return Err(Refusal::new("its answer is not SOCKS5"));
    }
    if chosen != method {
        let reason = if credentials.is_some() { "takes no user name and password" } else { "asks for credentials" };
        return Err(Refusal::new(reason));
    }
    if let Some((username, password)) = credentials {
        let mut request = Zeroizing::new(vec![1]);
        for text in [username, password] {
            request.push(length_byte(text)?);
            request.extend_from_slice(text.as_bytes());
        }
        stream.write_all(&request).await?;
        let [_, status] = read(stream).await?;
        if status != 0 {
            return Err(Refusal::new("refused the user name or password"));
        }
    }
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match hop {
        Hop::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => request.extend_from_slice(&[&[1], ip.octets().as_slice()].concat()),
                IpAddr::V6(ip) => request.extend_from_slice(&[&[4], ip.octets().as_slice()].concat()),
            }
            address.port()
        }
        Hop::Name(name, port) => {
            request.extend_from_slice(&[3, length_byte(name)?]);
            request.extend_from_slice(name.as_bytes());
            *port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    read_socks5_reply(stream).await
}

async fn read_socks5_reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), Refusal> {
    let [version, reply, _, kind] = read(stream).await?;
    if version != VERSION {
        return Err(Refusal::new("its answer is not SOCKS5"));
    }
    let reason = match reply {
        0 => return skip_bound_address(stream, kind).await,
        1 => "general failure",
        2 => return Err(Refusal::new("does not allow the connection")),
        3 => "the network is unreachable",
        4 => "the host is unreachable",
        5 => "the connection was refused",
        6 => "the packet's time was up",
        7 => return Err(Refusal::new("does not know the command to connect")),
        8 => "does not know this kind of address",
        _ => return Err(Refusal::new(format_args!("answered with the unknown code {reply}"))),
    };
    Err(Refusal::of_address(reason))
}

/// The address that the proxy connects from; nobody here needs it.
async fn skip_bound_address<S: AsyncRead + Unpin>(stream: &mut S, kind: u8) -> Result<(), Refusal> {
    const PORT_BYTES: usize = 2;
    let address_bytes = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let [length] = read(stream).await?;
            usize::from(length)
        }
        _ => return Err(Refusal::new("its answer is not SOCKS5")),
    };
    let mut bound = [0; 255 + PORT_BYTES];
    stream.read_exact(&mut bound[..address_bytes + PORT_BYTES]).await?;
    Ok(())
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn length_byte(text: &str) -> Result<u8, Refusal> {
    u8::try_from(text.len()).map_err(|_| Refusal::new("a name or credential has more than 255 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connect_answer(answer: &[u8]) -> Result<(), String> {
        read_connect_answer(&mut &*answer).await.map_err(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn an_http_proxy_s_answer_is_read_strictly() {
        for good in ["HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 200\r\na: b\r\n\r\n"] {
            assert_eq!(connect_answer(good.as_bytes()).await, Ok(()), "{good:?}");
        }
        let flood = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(MAX_PROXY_HEAD_BYTES));
        let cases = [
            ("", "closed the connection"),
            ("HTTP/1.1 200 OK\r\n", "closed the connection"),
            ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0", "something of its own"),
            ("HTTP/1.1 407 x\r\n\r\n", "credentials"),
            ("HTTP/1.1 403 x\r\ncontent-length: 3\r\n\r\nno!", "answered 403"),
            ("HTTP/1.1 302 x\r\n\r\n", "answered 302"),
            ("HTTP/1.1 100 x\r\n\r\n", "answered 100"),
            ("HTTP/1.1 20 OK\r\n\r\n", "not HTTP/1.1"),
            ("HTTP/1.1 2000 OK\r\n\r\n", "not HTTP/1.1"),
            ("HTTP/1.9 200 OK\r\n\r\n", "not HTTP/1.1"),
            ("HTTP/2 200 OK\r\n\r\n", "not HTTP/1.1"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1.1"),
            (&flood, "more than 16384 bytes"),
        ];
        for (answer, expected) in cases {
            let reason = connect_answer(answer.as_bytes()).await.unwrap_err();
            assert!(reason.contains(expected), "{:?}: {reason}", &answer[..answer.len().min(40)]);
        }
    }

    #[tokio::test]
    async fn a_socks5_reply_is_read_to_its_end_and_no_further() {
        let replies: [&[u8]; 3] = [
            &[5, 0, 0, 1, 1, 2, 3, 4, 0, 80, 9],
            &[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80, 9],
            &[5, 0, 0, 3, 2, b'a', b'b', 0, 80, 9],
        ];
        for mut reply in replies {
            assert_eq!(read_socks5_reply(&mut reply).await, Ok(()));
            assert_eq!(reply, [9], "what follows is the receiver's");
        }
        let refusals: [(&[u8], &str, bool); 6] = [
            (&[5, 2, 0, 1], "does not allow", false),
            (&[5, 5, 0, 1], "was refused", true),
            (&[5, 99, 0, 1], "unknown code 99", false),
            (&[4, 0, 0, 1], "not SOCKS5", false),
            (&[5, 0, 0, 7], "not SOCKS5", false),
            (&[5, 0, 0, 3, 255, 1], "closed the connection", false),
        ];
        for (mut reply, expected, another_address_may_do) in refusals {
            let refusal = read_socks5_reply(&mut reply).await.unwrap_err();
            assert!(refusal.reason.contains(expected), "{refusal:?}");
            assert_eq!(refusal.another_address_may_do, another_address_may_do, "{refusal:?}");
        }
    }
}
