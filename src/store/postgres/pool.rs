//! Connections: how they are made, what is set in each, and a pool of them.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, PoolError, QueueMode, RecyclingMethod, Runtime,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::delivery::client::Roots;
use crate::fair::{Permit, Turns};
use crate::store::failure::{Failure, of_postgres, postgres_text};
use crate::store::{OpenError, StoreError};
use crate::webhook::TenantSeq;

/// The timeout of connecting to the server, and of the wait for a free connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server cancels a statement that takes longer.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Keepalive probes begin after this silence on a connection.
const SILENCE: Duration = Duration::from_secs(4);
/// The server rolls back a transaction in which the node sends nothing for this long, and the node makes it again. A
/// transaction may hold locks of shards, which the next owner needs exclusively, and of event ids. This timeout bounds
/// how long a process that was stopped or cut off keeps them. No transaction here waits for anything else between two
/// statements, so a running node stays far below it.
const IDLE_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(4);
/// Slow work gets one in this many connections.
const SLOW_SHARE: u32 = 2;
/// A tenant's slow work gets one in this many of these, at least one, so that other tenants find one.
const SLOW_SHARE_OF_A_TENANT: usize = 2;
/// The settings of every session. The server cancels statements after their timeout. A commit is on disk before it is
/// answered, whatever the server's default.
///
/// Statements are planned once, and shall look up their parameters by an index, row by row. By default the planner
/// prefers a full scan of an empty or small table, and keeps that plan when the table has grown. The settings leave it
/// nested loops only. A join by `=` may still scan a table in full; so statements that change rows given as arrays join
/// by `BETWEEN` a key and the same key, and statements that read use a `LATERAL` with an `OFFSET`.
const SESSION: &str = "
    SELECT
        set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
        set_config('lock_timeout', '10s', false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('plan_cache_mode', 'force_generic_plan', false),
        set_config('enable_seqscan', 'off', false),
        set_config('enable_hashjoin', 'off', false),
        set_config('enable_mergejoin', 'off', false),
        set_config('enable_hashagg', 'off', false),
        set_config('jit', 'off', false);";
/// Begins a transaction that reads one snapshot. Its parameters differ widely, so each statement gets a plan for its
/// own.
const BEGIN_SNAPSHOT: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan";

/// The server, and how to connect to it.
#[derive(Clone)]
pub(in crate::store) struct Server {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl Server {
    pub(super) fn new(mut config: Config, roots: Roots) -> Result<Self, String> {
        config
            .application_name("postrider")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(SILENCE)
            .keepalives_interval(SILENCE / 2)
            .keepalives_retries(2)
            .tcp_user_timeout(CONNECT_TIMEOUT);
        let tls = super::tls::connector(roots).map_err(|error| error.to_string())?;
        Ok(Self { config, tls })
    }
}

/// The pool.
pub(in crate::store) struct Connections {
    pool: Pool,
    /// As many permits as connections. The holder of all permits knows that no connection is in use.
    permits: Arc<Semaphore>,
    max: u32,
    /// Permits for slow work, in turns by tenant, so that some connections are left for other work.
    slow: Turns<Option<TenantSeq>>,
}

/// A connection on loan, which returns when dropped. An open transaction is rolled back.
pub(in crate::store) struct Connection {
    client: deadpool_postgres::Object,
    in_transaction: bool,
    /// Dropped after the connection, so that the next holder finds a connection.
    _permit: OwnedSemaphorePermit,
    slow: Option<Permit<Option<TenantSeq>>>,
}

impl Connections {
    pub(in crate::store) fn new(server: &Server, max: u32, database: &str) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError::Database { database: database.to_owned(), reason };
        let (config, tls) = (server.config.clone(), server.tls.clone());
        let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let (idle, statement) = (IDLE_TRANSACTION_TIMEOUT.as_millis(), STATEMENT_TIMEOUT.as_millis());
        let session =
            format!("{SESSION} SET idle_in_transaction_session_timeout = {idle}; SET statement_timeout = {statement}");
        let session: Arc<str> = session.into();
        let pool = Pool::builder(manager)
            .max_size(max as usize)
            // The connection used last has its statements prepared, and warm caches at the server.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .post_create(Hook::async_fn(move |client, _| {
                let session = Arc::clone(&session);
                Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let permits = |count: u32| Arc::new(Semaphore::new(count as usize));
        let slow = (max / SLOW_SHARE) as usize;
        Ok(Self {
            pool,
            permits: permits(max),
            max,
            slow: Turns::with_share(slow, slow.div_ceil(SLOW_SHARE_OF_A_TENANT)),
        })
    }

    pub(in crate::store) async fn get(&self) -> Result<Connection, StoreError> {
        let permit = tokio::time::timeout(CONNECT_TIMEOUT, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| none_free())?.map_err(|_| closed())?;
        let client = self.pool.get().await.map_err(|error| unavailable(&error))?;
        Ok(Connection { client, in_transaction: false, _permit: permit, slow: None })
    }

    /// A connection for work that may take long. All its statements read one snapshot.
    pub(super) async fn snapshot(&self, tenant: Option<TenantSeq>) -> Result<Connection, StoreError> {
        let slow = self.slow.acquire(tenant).await;
        let mut connection = self.get().await?;
        connection.slow = Some(slow);
        connection.begin_with(BEGIN_SNAPSHOT).await.map_err(|error| of_postgres(&error))?;
        Ok(connection)
    }

    /// Waits until no connection is in use, then closes all. Later calls fail.
    pub(super) async fn close(&self) {
        if let Ok(_all) = self.permits.acquire_many(self.max).await {
            self.permits.close();
            self.pool.close();
        }
    }
}

fn none_free() -> StoreError {
    StoreError::Unavailable("no connection to the database was free within the time allowed".to_owned())
}

fn unavailable(error: &PoolError) -> StoreError {
    match error {
        PoolError::Closed => closed(),
        PoolError::Timeout(_) => StoreError::Unavailable("the database does not answer".to_owned()),
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            StoreError::Unavailable(postgres_text(error))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

/// The parameters of a statement.
pub(in crate::store) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connection {
    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.query_numbered(sql, parameters).await
    }

    /// The single row, or none.
    pub(in crate::store) async fn query_opt(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Failure> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query_opt(&statement, parameters).await?)
    }

    pub(in crate::store) async fn query_one(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Row, Failure> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query_one(&statement, parameters).await?)
    }

    /// The rows of the second statement. It is sent without waiting for the first, which the server ends before it
    /// begins the second.
    pub(super) async fn query_after(
        &self,
        first: (&'static str, Parameters<'_>),
        second: (&'static str, Parameters<'_>),
    ) -> Result<Vec<Row>, Failure> {
        let before = self.client.prepare_cached(first.0).await?;
        let statement = self.client.prepare_cached(second.0).await?;
        // The first poll of each future sends the statement.
        let (_, rows) = tokio::try_join!(
            biased;
            self.client.query(&before, first.1),
            self.client.query(&statement, second.1),
        )?;
        Ok(rows)
    }

    /// Returns the number of changed rows.
    pub(in crate::store) async fn execute(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<u64, Failure> {
        self.execute_numbered(sql, parameters).await
    }

    /// As [`query`](Self::query), for a statement made by `numbered`, of which there are few.
    pub(super) async fn query_numbered(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query(&statement, parameters).await?)
    }

    /// As [`execute`](Self::execute), for a statement made by `numbered`, of which there are few.
    pub(super) async fn execute_numbered(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Failure> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.execute(&statement, parameters).await?)
    }

    /// The server's process that answers, read by a statement that needs no session.
    pub(super) async fn server_process(&self) -> Result<String, tokio_postgres::Error> {
        let messages = self.client.simple_query("SELECT pg_backend_pid()").await?;
        let found = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(found.unwrap_or_default().to_owned())
    }

    /// Statements without parameters, which are neither prepared nor kept.
    pub(in crate::store) async fn batch(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(sql).await
    }

    /// Prepares a statement that is not cached.
    pub(in crate::store) async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        Ok(self.client.prepare(sql).await?)
    }

    pub(in crate::store) async fn query_prepared(&self, statement: &Statement) -> Result<Vec<Row>, Failure> {
        Ok(self.client.query(statement, &[]).await?)
    }

    /// Writes rows by `COPY … FROM STDIN (FORMAT binary)`, the quickest way for many rows. Each row has a value of each
    /// of `types`.
    pub(in crate::store) async fn copy_in<'a, T: ToSql + Sync + 'a>(
        &self,
        copy: &str,
        types: &[Type],
        rows: impl Iterator<Item = Vec<&'a T>>,
    ) -> Result<(), Failure> {
        let mut writer = pin!(BinaryCopyInWriter::new(self.client.copy_in(copy).await?, types));
        for row in rows {
            writer.as_mut().write_raw(row.iter()).await?;
        }
        writer.finish().await?;
        Ok(())
    }

    pub(in crate::store) async fn begin(&mut self) -> Result<(), tokio_postgres::Error> {
        self.begin_with("BEGIN").await
    }

    pub(in crate::store) async fn begin_with(&mut self, begin: &str) -> Result<(), tokio_postgres::Error> {
        self.in_transaction = true;
        self.client.batch_execute(begin).await
    }

    /// After an error it is unknown whether the transaction was committed.
    pub(in crate::store) async fn commit(&mut self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.in_transaction {
            // The first poll sends the statement, before any of the next borrower. The answer is not awaited; the
            // statements of the next borrower come after it.
            let rollback = pin!(self.client.batch_execute("ROLLBACK"));
            let _ = rollback.poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}
