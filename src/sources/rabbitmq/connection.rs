//! One connection to RabbitMQ. It is given up when something goes wrong: the supervisor connects again and says why.

use std::time::Duration;

use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Channel, ConnectionProperties, Error, ErrorKind};
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::QueueSettings;
use super::frames::MAX_FRAME_BYTES;
use super::socket::{Socket, Sockets};
use crate::sources::SourceError;

/// The time for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for the end of a connection, with the acknowledgements before it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between the words of either side that it still lives, in seconds. After two without one a connection is given up.
const HEARTBEAT_S: u16 = 15;

pub(super) struct Connection {
    client: lapin::Connection,
    /// Ends the socket when it is dropped, and the client's thread with it.
    _socket: oneshot::Sender<()>,
}

impl Connection {
    pub(super) async fn open(settings: &QueueSettings, source: &str) -> Result<Self, SourceError> {
        let (socket, end) = Socket::new(settings.address.connect().await?);
        let socket = Mutex::new(Some(socket));
        let give = async move |_: AMQPUri, _: Runtime<RuntimeParts<Tokio, Sockets>>| {
            let socket = socket.lock().take();
            socket
                .map(AsyncTcpStream::Plain)
                .ok_or_else(|| Error::from(std::io::Error::from(std::io::ErrorKind::Other)))
        };
        let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Sockets(Tokio::current())));
        let properties = ConnectionProperties::default().with_connection_name(format!("postrider {source}").into());
        let opened = lapin::Connection::connector(uri(settings), runtime, give, properties);
        match timeout(ANSWER_TIMEOUT, opened).await {
            Ok(Ok(client)) => Ok(Self { client, _socket: end }),
            Ok(Err(error)) => Err(settings.address.connect_error(words(&error))),
            Err(_) => {
                Err(settings.address.connect_error(format_args!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            }
        }
    }

    pub(super) async fn channel(&self) -> Result<Channel, SourceError> {
        answered("cannot open a channel", self.client.create_channel()).await
    }

    /// Ends the connection. What does not go out in time comes again.
    pub(super) async fn close(self) {
        let _ = timeout(CLOSE_TIMEOUT, self.client.close(200, "OK".into())).await;
    }
}

/// Where TLS is does not concern the client.
fn uri(settings: &QueueSettings) -> AMQPUri {
    let userinfo =
        AMQPUserInfo { username: settings.user.clone(), password: settings.password.expose_secret().to_owned() };
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority { userinfo, host: String::new(), port: 0 },
        vhost: settings.vhost.clone(),
        // The client allocates 64 frames, and without a bound of its own it takes that of the server, which may have none.
        query: AMQPQueryString {
            frame_max: Some(MAX_FRAME_BYTES),
            heartbeat: Some(HEARTBEAT_S),
            ..AMQPQueryString::default()
        },
    }
}

/// The answer to a request, within its time.
pub(super) async fn answered<T>(
    action: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, SourceError> {
    match timeout(ANSWER_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| SourceError::new(action, words(&error))),
        Err(_) => Err(SourceError::new(action, format_args!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}

/// What the server says, without how the client sorts it.
pub(super) fn words(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => {
            "the connection to the server ended".to_owned()
        }
        _ => error.to_string(),
    }
}
