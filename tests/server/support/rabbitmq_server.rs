//! A RabbitMQ server of a test's own, with an epmd of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tempfile::TempDir;

use super::started::{Patience, Started, free_port, said};

/// Debian's programs without the wrapper that becomes another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const PATIENCE: Patience = Patience { most: Duration::from_secs(90), look_every: Duration::from_millis(50) };

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct RabbitServer {
    folder: TempDir,
    port: u16,
    tls_port: u16,
    distribution_port: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Started>,
}

impl RabbitServer {
    pub(crate) async fn start() -> Self {
        let mut server = Self::stopped("");
        server.run_again().await;
        server
    }

    /// Not yet started: nothing is at its port. With these lines beside those of every such server.
    pub(crate) fn stopped(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, tls_port, distribution_port, epmd_port] = std::array::from_fn(|_| free_port());
        let settings = settings.replace("TLS_PORT", &tls_port.to_string());
        fs::write(folder.path().join("rabbitmq.conf"), format!("log.console = true\nlog.file = false\n{settings}\n"))
            .unwrap();
        fs::write(folder.path().join("plugins"), "[].\n").unwrap();
        let epmd = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd is missing: install Debian's package rabbitmq-server");
        Self { folder, port, tls_port, distribution_port, epmd_port, epmd, server: None }
    }

    /// A program of the server's, which knows this one.
    fn program(&self, name: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(PathBuf::from(PROGRAMS).join(name));
        command
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", format!("test{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder)
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none")
            // The script becomes the server.
            .env("RUNNING_UNDER_SYSTEMD", "1");
        command
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://127.0.0.1:{}", self.tls_port)
    }

    /// A client that may do anything.
    pub(crate) async fn client(&self) -> Client {
        self.client_of("%2f").await
    }

    /// The same, of a virtual host. A client without a bound of frames takes the memory that the server allows.
    pub(crate) async fn client_of(&self, vhost: &str) -> Client {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}?frame_max=131072", self.port);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Client { channel, _connection: connection }
    }

    /// What `rabbitmqctl` prints for these words.
    pub(crate) async fn control(&self, words: &str) -> String {
        let mut command = self.program("rabbitmqctl");
        command.arg("--quiet").args(words.split(' '));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Dies at once.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    pub(crate) async fn run_again(&mut self) {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f?frame_max=131072", self.port);
        let lets_in = || async { Connection::connect(&url, ConnectionProperties::default()).await.is_ok() };
        let (command, log) = (self.program("rabbitmq-server"), self.folder.path().join("log"));
        self.server = Started::start(command, "rabbitmq-server", &log, &PATIENCE, lets_in).await;
        assert!(self.server.is_some(), "the server does not start:\n{}", said(&log));
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        self.kill();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

/// A channel that waits for the server's confirmations.
pub(crate) struct Client {
    pub(crate) channel: Channel,
    _connection: Connection,
}

impl Client {
    /// Makes a durable queue, with arguments that are texts or numbers.
    pub(crate) async fn queue(&self, name: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, table).await.unwrap();
    }

    pub(crate) async fn delete_queue(&self, name: &str) {
        self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// How many messages of a queue no consumer has.
    pub(crate) async fn ready(&self, name: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
        queue.message_count()
    }

    /// Publishes to a queue, and waits until the server has written it.
    pub(crate) async fn publish(&self, queue: &str, id: Option<&str>, body: impl AsRef<[u8]>) {
        let properties = match id {
            Some(id) => BasicProperties::default().with_message_id(id.into()),
            None => BasicProperties::default(),
        };
        self.publish_with("", queue, properties, body.as_ref()).await;
    }

    pub(crate) async fn publish_with(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let properties = properties.with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
        assert!(sent.await.unwrap().is_ack());
    }
}
