//! A database for one measurement, and what the server has counted meanwhile.

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::open::PostgresOptions;
use super::pool::{Connection, Connections};
use crate::store::failure::Failure;
use crate::store::{OpenError, StoreError};

/// The prefix of the names of scratch databases; a random number follows.
const NAME: &str = "postrider_scratch_";

/// A new and empty database on a server.
pub struct Scratch {
    name: String,
    /// Where it is.
    pub url: SecretString,
    /// Connections to the database of the options, through which the new one was made.
    server: Connections,
    own: Connections,
}

/// Counts since the server's start, of the whole server.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Transactions that wrote.
    pub transactions: i64,
    pub wal_bytes: i64,
    /// Statements in this database; `None`: the server has no `pg_stat_statements`.
    pub statements: Option<i64>,
    /// The id of the server's process that answered.
    pub backend: i32,
}

impl Scratch {
    /// Makes a database beside the one of `options`, whose user needs the right to do so.
    pub async fn create(options: &PostgresOptions) -> Result<Self, OpenError> {
        let database = options.shown()?;
        let failed = |error: StoreError| OpenError::Database { database: database.clone(), reason: error.to_string() };
        let name = format!("{NAME}{}", Uuid::new_v4().simple());
        let url = at_database(&options.url, &name);
        let server = Connections::new(&options.server()?, 1, &database)?;
        let own = PostgresOptions { url: url.clone(), ..options.clone() };
        let own = Connections::new(&own.server()?, 1, &database)?;
        let connection = server.get().await.map_err(failed)?;
        let made = connection.batch(&format!("CREATE DATABASE {name}")).await;
        made.map_err(|error| failed(Failure::from(error).into()))?;
        let scratch = Self { name, url, server, own };
        let connection = scratch.own.get().await.map_err(failed)?;
        // If the server refuses, statements are not counted.
        let _ = connection.batch("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
        Ok(scratch)
    }

    /// The user of its connections.
    pub async fn user(&self) -> Result<String, StoreError> {
        let row = self.own.get().await?.query_one("SELECT current_user::text", &[]).await?;
        Ok(row.try_get(0).map_err(Failure::from)?)
    }

    /// Executes statements in it.
    pub async fn execute(&self, statements: &str) -> Result<(), StoreError> {
        let connection = self.own.get().await?;
        Ok(connection.batch(statements).await.map_err(Failure::from)?)
    }

    pub async fn counted(&self) -> Result<Counted, StoreError> {
        let connection = self.own.get().await?;
        let row = connection
            .query_one(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                     (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_backend_pid()",
                &[],
            )
            .await?;
        let read = || -> Result<Counted, Failure> {
            let statements = None;
            Ok(Counted {
                transactions: row.try_get(0)?,
                wal_bytes: row.try_get(1)?,
                statements,
                backend: row.try_get(2)?,
            })
        };
        Ok(Counted { statements: statements(&connection).await, ..read()? })
    }

    /// Drops the database even if clients are connected.
    pub async fn drop_database(self) -> Result<(), StoreError> {
        self.own.close().await;
        let connection = self.server.get().await?;
        let dropped = connection.batch(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        Ok(dropped.map_err(Failure::from)?)
    }
}

async fn statements(connection: &Connection) -> Option<i64> {
    let row = connection
        .query_one(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        )
        .await;
    row.and_then(|row| Ok(row.try_get(0)?)).ok()
}

/// The same server, user and options, with another database.
fn at_database(url: &SecretString, name: &str) -> SecretString {
    let url = url.expose_secret();
    match url::Url::parse(url) {
        Ok(mut parsed) => {
            parsed.set_path(name);
            String::from(parsed).into()
        }
        // Of pairs with the same key the last is used.
        Err(_) => format!("{url} dbname={name}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_is_named_in_both_forms_of_a_url() {
        for (url, expected) in [
            ("postgres://a:b%2f@h:1/x?sslmode=require", "postgres://a:b%2f@h:1/y?sslmode=require"),
            ("postgres://a@h", "postgres://a@h/y"),
            ("host=h dbname=x", "host=h dbname=x dbname=y"),
        ] {
            let other = at_database(&url.to_owned().into(), "y");
            assert_eq!(other.expose_secret(), expected);
            let config = PostgresOptions::new(other).config().unwrap();
            assert_eq!(config.get_dbname(), Some("y"));
        }
    }
}
