//! Opening: the server's version and settings, migrations, and the keys of the installation.

use std::collections::BTreeSet;
use std::io;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::pool::{Connection, Connections, Server};
use super::sealed_urls::seal_urls;
use super::{CONTROL_CONNECTIONS, LISTENING_CONNECTIONS, MIN_CONNECTIONS, schema};
use crate::delivery::client::Roots;
use crate::store::failure::Failure;
use crate::store::migrate::{self, Migration};
use crate::store::seal::{Belonging, Sealer, random_bytes};
use crate::store::{OpenError, StoreError};
use crate::webhook::DEFAULT_TENANT;

/// The first migration makes the schema that the embedded store has after its fourth.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/postgres/0001_initial.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/postgres/0002_nodes.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/postgres/0003_present_owner.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/postgres/0004_transfer.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/postgres/0005_hops.sql") },
    Migration { version: 6, sql: include_str!("../../../migrations/postgres/0006_checksum.sql") },
    Migration { version: 7, sql: include_str!("../../../migrations/postgres/0007_known.sql") },
    Migration { version: 8, sql: include_str!("../../../migrations/postgres/0008_disk.sql") },
    Migration { version: 9, sql: include_str!("../../../migrations/postgres/0009_records.sql") },
    Migration { version: 10, sql: include_str!("../../../migrations/postgres/0010_rejected.sql") },
    Migration { version: 11, sql: include_str!("../../../migrations/postgres/0011_inlets.sql") },
    Migration { version: 12, sql: include_str!("../../../migrations/postgres/0012_exchanges.sql") },
    Migration { version: 13, sql: include_str!("../../../migrations/postgres/0013_figures.sql") },
];
/// The oldest version of PostgreSQL that was supported upstream when this program was released.
const OLDEST_POSTGRES: u32 = 14;
/// The default of [`PostgresOptions::max_connections`].
pub const DEFAULT_MAX_CONNECTIONS: u32 = 16;

/// How often each of two connections is asked for the server's process that serves it.
const SESSION_LOOKS: u32 = 3;

/// Keys of the table `meta`, as in the embedded store.
const ID_HASH_KEY: &str = "id_hash_key";
const DELIVERY_ID_KEY: &str = "delivery_id_key";
const MASTER_KEY_CHECK: &str = "master_key_check";
const MASTER_KEY_CHECK_TEXT: &[u8] = b"postrider";

/// The database, and how it is used.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgresql://user:password@host:port/database?sslmode=…`, or `key=value` pairs: what `tokio_postgres::Config`
    /// reads. Whenever TLS is used, the server's certificate is checked, the host's name too.
    pub url: SecretString,
    /// The certificate authorities that may issue the server's certificate.
    pub roots: Roots,
    /// The most connections of the pool; at least [`MIN_CONNECTIONS`].
    pub max_connections: u32,
    /// Accepts a server with `fsync` or `full_page_writes` off. For tests.
    pub allow_unsafe_server: bool,
    /// The length of the memory window, in event numbers. Deliveries of older events are no longer marked as held in
    /// memory, which bounds what a restart reads back.
    pub memory_window_events: u32,
}

impl PostgresOptions {
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            roots: Roots::default(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
            allow_unsafe_server: false,
            memory_window_events: 100_000,
        }
    }

    /// The database as messages show it: without user and password.
    pub fn shown(&self) -> Result<String, OpenError> {
        self.config().map(|config| shown(&config))
    }

    /// The most connections of a node, including the ones beside the pool.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let all = self.max_connections.max(MIN_CONNECTIONS) + CONTROL_CONNECTIONS + LISTENING_CONNECTIONS;
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// What a session of its own needs, beside the store.
    pub(crate) fn connector(&self) -> Result<(Config, MakeRustlsConnect), OpenError> {
        self.server().map(|Server { config, tls }| (config, tls))
    }

    /// The server, ready to be connected to.
    pub(in crate::store) fn server(&self) -> Result<Server, OpenError> {
        let config = self.config()?;
        let database = shown(&config);
        Server::new(config, self.roots.clone()).map_err(|reason| OpenError::Database { database, reason })
    }

    /// Parses the URL. The error contains no part of it, since any part could be the password.
    pub(in crate::store) fn config(&self) -> Result<Config, OpenError> {
        self.url.expose_secret().parse().map_err(|_| OpenError::Database {
            database: "the database's URL".to_owned(),
            reason: "expected postgres://user:password@host:port/database".to_owned(),
        })
    }
}

pub(in crate::store) fn shown(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("database {} at {host}:{port}", config.get_dbname().unwrap_or("of the user's name"))
}

/// The keys in the table `meta`.
pub(super) struct Keys {
    pub(super) id_hash: [u8; 16],
    pub(super) delivery_id: [u8; 16],
}

/// A database that is being opened.
pub(super) struct Opening<'a> {
    pub(super) connections: &'a Connections,
    pub(super) sealer: &'a Sealer,
    pub(super) database: &'a str,
}

impl Opening<'_> {
    /// Checks the server and the schema, and brings the schema up to date. Changes nothing that it refuses.
    pub(super) async fn prepare(&self, allow_unsafe_server: bool) -> Result<Keys, OpenError> {
        refuse_shared_sessions(self.connections, self.database).await?;
        let connection = self.connections.get().await.map_err(|error| self.failed(error.into()))?;
        check_server(&connection, self.database, allow_unsafe_server).await?;
        let found = schema_version(&connection).await.map_err(|failure| self.failed(failure))?;
        if found == migrate::latest(MIGRATIONS) {
            let damage = schema::damage(&connection).await.map_err(|failure| self.failed(failure))?;
            damage.map_or(Ok(()), |damage| Err(self.corrupt(&damage)))?;
        }
        if found > 0 {
            self.refuse_unfinished(&connection).await?;
            self.keys(&connection).await?;
        }
        let missing = missing_migrations(self.database, found)?;
        drop(connection);
        for migration in missing {
            migrate(self.connections, migration).await.map_err(|failure| self.failed(failure))?;
        }
        let connection = self.connections.get().await.map_err(|error| self.failed(error.into()))?;
        self.make_keys(&connection).await?;
        // A move may have begun meanwhile and made the keys.
        self.refuse_unfinished(&connection).await?;
        let keys = self.keys(&connection).await?;
        drop(connection);
        seal_urls(self.connections, self.sealer).await.map_err(|failure| self.failed(failure))?;
        Ok(keys)
    }

    async fn refuse_unfinished(&self, connection: &Connection) -> Result<(), OpenError> {
        if is_unfinished(connection).await.map_err(|failure| self.failed(failure))? {
            return Err(OpenError::UnfinishedTransfer { database: self.database.to_owned() });
        }
        Ok(())
    }

    /// Makes random keys and the mark of the master key, unless they exist. Of nodes that start together one makes
    /// them.
    async fn make_keys(&self, connection: &Connection) -> Result<(), OpenError> {
        let io = |error: io::Error| self.other(&error);
        let id_hash = random_bytes::<16>().map_err(io)?;
        let delivery_id = random_bytes::<16>().map_err(io)?;
        let check = self.sealer.seal(MASTER_KEY_CHECK_TEXT, &master_key_check()).map_err(|error| self.other(&error))?;
        connection
            .execute(
                "INSERT INTO meta (key, value)
                 SELECT key, value
                 FROM (VALUES ($1::text, $2::bytea), ($3, $4), ($5, $6)) AS made (key, value)
                 WHERE NOT EXISTS (SELECT 1 FROM meta WHERE meta.key = $1::text)
                 ON CONFLICT (key) DO NOTHING",
                &[&ID_HASH_KEY, &&id_hash[..], &DELIVERY_ID_KEY, &&delivery_id[..], &MASTER_KEY_CHECK, &check],
            )
            .await
            .map(drop)
            .map_err(|failure| self.failed(failure))
    }

    /// The keys of the installation, if the master key is right.
    async fn keys(&self, connection: &Connection) -> Result<Keys, OpenError> {
        let read = async |name: &str| -> Result<Vec<u8>, OpenError> {
            let row = connection.query_opt("SELECT value FROM meta WHERE key = $1", &[&name]).await;
            let value = row.and_then(|row| row.map(|row| Ok(row.try_get(0)?)).transpose());
            let value = value.map_err(|failure| self.failed(failure))?;
            value.ok_or_else(|| self.corrupt(&format!("{name} is missing")))
        };
        let check = read(MASTER_KEY_CHECK).await?;
        if self.sealer.open(&check, &master_key_check()).is_err() {
            return Err(OpenError::WrongMasterKey { path: self.database.to_owned() });
        }
        let key = |bytes: Vec<u8>| bytes.try_into().map_err(|_| self.corrupt("a key has the wrong length"));
        Ok(Keys { id_hash: key(read(ID_HASH_KEY).await?)?, delivery_id: key(read(DELIVERY_ID_KEY).await?)? })
    }

    pub(super) fn failed(&self, failure: Failure) -> OpenError {
        open_error(self.database, failure)
    }

    fn other(&self, error: &dyn std::error::Error) -> OpenError {
        OpenError::Database { database: self.database.to_owned(), reason: error.to_string() }
    }

    fn corrupt(&self, reason: &str) -> OpenError {
        OpenError::Corrupt { path: self.database.to_owned(), reason: reason.to_owned() }
    }
}

/// Refuses a pooler that lends a session for each transaction. Behind such a pooler, one process of the server answers
/// two open connections, or several processes answer one.
async fn refuse_shared_sessions(connections: &Connections, database: &str) -> Result<(), OpenError> {
    let read = async || -> Result<bool, Failure> {
        let (one, two) = (connections.get().await?, connections.get().await?);
        let (mut of_one, mut of_two) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..SESSION_LOOKS {
            of_one.insert(one.server_process().await?);
            of_two.insert(two.server_process().await?);
        }
        Ok(of_one.len() > 1 || of_two.len() > 1 || of_one == of_two)
    };
    if read().await.map_err(|failure| open_error(database, failure))? {
        return Err(OpenError::SharedSessions { database: database.to_owned() });
    }
    Ok(())
}

/// Refuses a server that this program cannot use.
pub(in crate::store) async fn check_server(
    connection: &Connection,
    database: &str,
    allow_unsafe_server: bool,
) -> Result<(), OpenError> {
    let read = async || -> Result<(i32, String, bool, bool, bool), Failure> {
        let row = connection
            .query_one(
                "SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
                     current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
                     pg_is_in_recovery()",
                &[],
            )
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
    };
    let (number, version, fsync, full_page_writes, is_standby) =
        read().await.map_err(|failure| open_error(database, failure))?;
    let database = database.to_owned();
    if number / 10_000 < super::values::integer(OLDEST_POSTGRES) {
        return Err(OpenError::OldPostgres { database, found: version, needed: OLDEST_POSTGRES });
    }
    if is_standby {
        let reason = "it is a standby server, which takes no writes; connect to the primary".to_owned();
        return Err(OpenError::Database { database, reason });
    }
    for (setting, is_on) in [("fsync", fsync), ("full_page_writes", full_page_writes)] {
        if !is_on && !allow_unsafe_server {
            return Err(OpenError::UnsafeServer { database, setting });
        }
    }
    Ok(())
}

/// The migrations that a schema of version `found` needs. A newer schema is refused.
pub(in crate::store) fn missing_migrations(database: &str, found: i64) -> Result<&'static [Migration], OpenError> {
    migrate::missing(MIGRATIONS, found).map_err(|newer| OpenError::NewerSchema {
        path: database.to_owned(),
        found: newer.found,
        known: newer.known,
    })
}

/// Runs one migration in its transaction, unless another node has done so.
pub(in crate::store) async fn migrate(connections: &Connections, migration: &Migration) -> Result<(), Failure> {
    let mut connection = connections.get().await?;
    connection.begin().await?;
    connection.execute("SELECT pg_advisory_xact_lock($1)", &[&schema::MIGRATION_LOCK]).await?;
    connection
        .batch("CREATE TABLE IF NOT EXISTS schema_version (version bigint PRIMARY KEY, migrated_at timestamptz)")
        .await?;
    if read_version(&connection).await? >= migration.version {
        return Ok(());
    }
    connection.batch(migration.sql).await?;
    connection
        .execute(
            "INSERT INTO schema_version (version, migrated_at) VALUES ($1, clock_timestamp())",
            &[&migration.version],
        )
        .await?;
    Ok(connection.commit().await?)
}

/// Whether the database has no installation yet.
pub(super) async fn is_new(options: &PostgresOptions) -> Result<bool, OpenError> {
    let config = options.config()?;
    let database = shown(&config);
    let connections = Connections::new(&options.server()?, 2, &database)?;
    refuse_shared_sessions(&connections, &database).await?;
    let found = async { schema_version(&connections.get().await?).await };
    let found = found.await.map_err(|failure| open_error(&database, failure));
    connections.close().await;
    Ok(found? == 0)
}

pub(in crate::store) fn open_error(database: &str, failure: Failure) -> OpenError {
    let database = database.to_owned();
    match StoreError::from(failure) {
        StoreError::Corrupt(reason) => OpenError::Corrupt { path: database, reason },
        StoreError::Unavailable(reason) => OpenError::Database { database, reason },
        other => OpenError::Database { database, reason: other.to_string() },
    }
}

fn master_key_check() -> Belonging<'static> {
    Belonging { tenant: DEFAULT_TENANT, webhook: Uuid::nil(), field: MASTER_KEY_CHECK }
}

/// 0: the database has no schema of this program.
pub(in crate::store) async fn schema_version(connection: &Connection) -> Result<i64, Failure> {
    let found = connection.query_one("SELECT to_regclass('schema_version') IS NOT NULL", &[]).await?;
    if found.try_get(0)? { read_version(connection).await } else { Ok(0) }
}

async fn read_version(connection: &Connection) -> Result<i64, Failure> {
    let version = connection.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
    Ok(version.try_get(0)?)
}

pub(in crate::store) async fn has_transfer(connection: &Connection) -> Result<bool, Failure> {
    if !is_possible(connection).await? {
        return Ok(false);
    }
    Ok(connection.query_one("SELECT EXISTS (SELECT 1 FROM transfer)", &[]).await?.try_get(0)?)
}

/// Whether a move into the database has begun and not ended.
async fn is_unfinished(connection: &Connection) -> Result<bool, Failure> {
    if !is_possible(connection).await? {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM transfer WHERE finished_at IS NULL)";
    Ok(connection.query_one(sql, &[]).await?.try_get(0)?)
}

/// Whether the schema is so new.
async fn is_possible(connection: &Connection) -> Result<bool, Failure> {
    Ok(connection.query_one("SELECT to_regclass('transfer') IS NOT NULL", &[]).await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> PostgresOptions {
        PostgresOptions::new(SecretString::from(url.to_owned()))
    }

    #[test]
    fn no_message_shows_the_password() {
        let config = options("postgresql://ann:s3cret@db.example:6432/hooks?sslmode=require").config().unwrap();
        assert_eq!(shown(&config), "database hooks at db.example:6432");
        let config = options("host=/run/postgresql user=ann password=s3cret dbname=hooks").config().unwrap();
        assert_eq!(shown(&config), "database hooks at /run/postgresql:5432");
        for wrong in ["postgresql://ann:s3cret@db:port/hooks", "s3cret", "host=a s3cret=b"] {
            let error = options(wrong).config().unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("expected postgres://"), "{error}");
            assert!(!format!("{:?}", options(wrong)).contains("s3cret"));
        }
    }
}
