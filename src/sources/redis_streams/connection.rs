//! One connection to Redis, and the commands that go over it.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, Value};
use secrecy::ExposeSecret as _;
use tokio::task::JoinHandle;

use super::StreamSettings;
use super::checked::Checked;
use super::entry::Entry;
use crate::sources::SourceError;

/// The time for an answer, beside that for which a command waits at the server.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time for which a command waits at the server for the next entry.
pub(super) const LONGEST_BLOCK: Duration = Duration::from_secs(5);
/// The code of an answer: there is no such stream, or no such group of it.
const NO_GROUP: &str = "NOGROUP";
/// The code of an answer: the group is there already.
const BUSY_GROUP: &str = "BUSYGROUP";

pub(super) struct Connection {
    commands: MultiplexedConnection,
    /// Reads and writes.
    driver: JoinHandle<()>,
}

/// What an `XAUTOCLAIM` brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    /// Where the next one goes on; `None`: at the end.
    pub(super) next: Option<String>,
    pub(super) entries: Vec<Entry>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(settings: &StreamSettings) -> Result<Self, SourceError> {
        let stream = Checked::new(settings.address.connect().await?);
        // Naming the library would take another right.
        let mut info = RedisConnectionInfo::default()
            .set_db(settings.database.into())
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if let Some(user) = &settings.user {
            info = info.set_username(user);
        }
        if let Some(password) = &settings.password {
            info = info.set_password(password.expose_secret());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(LONGEST_BLOCK + ANSWER_TIMEOUT));
        let greeted = MultiplexedConnection::new_with_config(&info, stream, config);
        match tokio::time::timeout(ANSWER_TIMEOUT, greeted).await {
            Ok(Ok((commands, driver))) => Ok(Self { commands, driver: tokio::spawn(driver) }),
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(settings.address.connect_error("the server refuses the login"))
            }
            Ok(Err(error)) => Err(settings.address.connect_error(words(&error))),
            Err(_) => {
                Err(settings.address.connect_error(format_args!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            }
        }
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        command.query_async(&mut self.commands).await
    }

    /// Makes the group, and the stream if it is not there. Returns whether this call made it.
    pub(super) async fn make_group(&mut self, settings: &StreamSettings, from: &str) -> Result<bool, RedisError> {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&settings.stream).arg(&settings.group).arg(from).arg("MKSTREAM");
        match self.ask(&command).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(BUSY_GROUP) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Entries that this consumer got and has not acknowledged, after the one of an id.
    pub(super) async fn own(
        &mut self,
        settings: &StreamSettings,
        consumer: &str,
        after: &str,
        count: usize,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&settings.group).arg(consumer).arg("COUNT").arg(count);
        command.arg("STREAMS").arg(&settings.stream).arg(after);
        Ok(read_streams(self.ask(&command).await?))
    }

    /// Entries that no consumer of the group has got. Waits for one, at most for `block`.
    pub(super) async fn next(
        &mut self,
        settings: &StreamSettings,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&settings.group).arg(consumer).arg("COUNT").arg(count);
        // 0 would be for ever.
        command.arg("BLOCK").arg(millis(block.min(LONGEST_BLOCK)).max(1));
        command.arg("STREAMS").arg(&settings.stream).arg(">");
        Ok(read_streams(self.ask(&command).await?))
    }

    /// Takes over what other consumers got and have not acknowledged for a time, from an id on.
    pub(super) async fn claim(
        &mut self,
        settings: &StreamSettings,
        consumer: &str,
        from: &str,
        count: usize,
    ) -> Result<Claimed, RedisError> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command.arg(&settings.stream).arg(&settings.group).arg(consumer).arg(millis(settings.claim_after));
        command.arg(from).arg("COUNT").arg(count);
        Ok(read_claimed(self.ask(&command).await?))
    }

    /// Entries that wait here look as if they had been got just now, so that no other consumer takes them over.
    pub(super) async fn keep(
        &mut self,
        settings: &StreamSettings,
        consumer: &str,
        ids: &[String],
    ) -> Result<(), RedisError> {
        let mut command = redis::cmd("XCLAIM");
        command.arg(&settings.stream).arg(&settings.group).arg(consumer).arg(0).arg(ids).arg("JUSTID");
        self.ask(&command).await.map(|_| ())
    }

    pub(super) async fn acknowledge(&mut self, settings: &StreamSettings, ids: &[String]) -> Result<(), RedisError> {
        let mut command = redis::cmd("XACK");
        command.arg(&settings.stream).arg(&settings.group).arg(ids);
        self.ask(&command).await.map(|_| ())
    }
}

pub(super) fn is_without_group(error: &RedisError) -> bool {
    error.code() == Some(NO_GROUP)
}

/// What the server says, without how the client sorts it.
pub(super) fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ if error.is_timeout() => "no answer in time".to_owned(),
        _ if error.is_connection_dropped() => "the connection to the server ended".to_owned(),
        _ => error.to_string(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    bytes(value).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The answer to `XREADGROUP` of one stream: nothing, or the stream's name and its entries.
fn read_streams(answer: Value) -> Vec<Entry> {
    let streams = array(answer).into_iter().map(array);
    streams.filter_map(|mut stream| stream.pop()).flat_map(read_entries).collect()
}

fn read_entries(entries: Value) -> Vec<Entry> {
    array(entries).into_iter().filter_map(read_entry).collect()
}

fn read_entry(entry: Value) -> Option<Entry> {
    let mut parts = array(entry).into_iter();
    let id = text(parts.next()?)?;
    let Some(Value::Array(values)) = parts.next() else { return Some(Entry { id, fields: None }) };
    let mut values = values.into_iter().filter_map(bytes);
    let mut fields = Vec::with_capacity(values.size_hint().0 / 2);
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        fields.push((name, value));
    }
    Some(Entry { id, fields: Some(fields) })
}

/// The answer to `XAUTOCLAIM`: where to go on, the entries, and from Redis 7 on the ids of those that were deleted.
fn read_claimed(answer: Value) -> Claimed {
    let mut parts = array(answer).into_iter();
    let next = parts.next().and_then(text).filter(|id| id != "0-0");
    let mut entries = parts.next().map(read_entries).unwrap_or_default();
    let deleted = parts.next().map(array).unwrap_or_default().into_iter().filter_map(text);
    entries.extend(deleted.map(|id| Entry { id, fields: None }));
    Claimed { next, entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn entry(id: &str, fields: Option<&[&str]>) -> Value {
        let fields = fields.map_or(Value::Nil, |texts| Value::Array(texts.iter().map(|text| bulk(text)).collect()));
        Value::Array(vec![bulk(id), fields])
    }

    #[test]
    fn answers_are_entries() {
        let entries = Value::Array(vec![entry("1-0", Some(&["a", "1", "a", "2"])), entry("2-0", None)]);
        let answer = Value::Array(vec![Value::Array(vec![bulk("orders"), entries.clone()])]);
        let of_a = |value: &'static str| (Bytes::from("a"), Bytes::from(value));
        let expected = [
            Entry { id: "1-0".to_owned(), fields: Some(vec![of_a("1"), of_a("2")]) },
            Entry { id: "2-0".to_owned(), fields: None },
        ];
        assert_eq!(read_streams(answer), expected);
        assert_eq!(read_streams(Value::Nil), []);
        let claimed = read_claimed(Value::Array(vec![bulk("7-1"), entries.clone(), Value::Array(vec![bulk("3-0")])]));
        assert_eq!((claimed.next.as_deref(), claimed.entries.len()), (Some("7-1"), 3));
        assert_eq!(claimed.entries[2], Entry { id: "3-0".to_owned(), fields: None });
        let older = read_claimed(Value::Array(vec![bulk("0-0"), entries]));
        assert_eq!((older.next, older.entries.len()), (None, 2));
    }
}
