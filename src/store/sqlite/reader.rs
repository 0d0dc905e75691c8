//! The readers: a few read-only connections, each used by one blocking task at a time.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::writer::{Failure, closed};
use crate::store::StoreError;

/// Read-only connections: what reads at once.
pub(super) const READERS: u32 = 4;

/// The pool. Its permits and its connections are equally many.
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

/// A connection on loan; goes back when dropped, also when a reader panics.
struct Loan {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.idle.lock().extend(self.connection.take());
    }
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self { idle: Arc::new(Mutex::new(connections)), permits }
    }

    /// Does `work` on one snapshot of what is committed.
    pub(super) async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let idle = Arc::clone(&self.idle);
        let reading = spawn_blocking(move || {
            let connection = idle.lock().pop();
            // The permit goes after the loan: who gets it finds a connection.
            let _permit = permit;
            let loan = Loan { connection, idle };
            let connection = loan.connection.as_ref().ok_or_else(closed)?;
            let snapshot = connection.unchecked_transaction().map_err(Failure::from)?;
            Ok(work(&snapshot)?)
        });
        reading.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    /// Waits for who reads now, then closes the connections. Later reads fail.
    pub(super) async fn close(&self) {
        if let Ok(_all) = self.permits.acquire_many(READERS).await {
            self.permits.close();
            self.idle.lock().clear();
        }
    }
}
