//! The readers: a few read-only connections, each used by one blocking task at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::commit::closed;
use crate::fair::Turns;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::webhook::TenantSeq;

/// The number of read-only connections, hence of concurrent reads.
pub(super) const READERS: u32 = 4;

/// The most readers of slow work. The others are left for work that must not wait for it.
const SLOW_READERS: usize = READERS as usize / 2;
/// The most of these that one tenant has, so that the slow work of others finds one.
const SLOW_READERS_A_TENANT: usize = SLOW_READERS / 2;

/// The interval in which reads are interrupted, while all connections are wanted back.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// The pool. It has as many permits as connections, except while it is [suspended](Self::suspend).
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    /// Further permits for slow work.
    slow_permits: Turns<Option<TenantSeq>>,
    is_suspended: AtomicBool,
    interrupts: Mutex<Vec<InterruptHandle>>,
}

/// A connection on loan, which returns when dropped, even by a panic.
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
        Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            slow_permits: Turns::with_share(SLOW_READERS, SLOW_READERS_A_TENANT),
            is_suspended: AtomicBool::new(false),
            interrupts: Mutex::new(interrupts(&connections)),
            idle: Arc::new(Mutex::new(connections)),
        }
    }

    /// Interrupts all reads and closes all connections. Reads fail until [`Self::resume`]. Blocks.
    pub(super) fn suspend(&self) {
        self.is_suspended.store(true, Ordering::Release);
        loop {
            self.interrupts.lock().iter().for_each(InterruptHandle::interrupt);
            let mut idle = self.idle.lock();
            if idle.len() == self.interrupts.lock().len() {
                idle.clear();
                self.interrupts.lock().clear();
                return;
            }
            drop(idle);
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// `connections` must be as many as before.
    pub(super) fn resume(&self, connections: Vec<Connection>) {
        *self.interrupts.lock() = interrupts(&connections);
        *self.idle.lock() = connections;
        self.is_suspended.store(false, Ordering::Release);
    }

    /// Runs `work` on one snapshot of the committed state.
    pub(super) async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        if self.is_suspended.load(Ordering::Acquire) {
            return Err(suspended());
        }
        let idle = Arc::clone(&self.idle);
        let reading = spawn_blocking(move || {
            let connection = idle.lock().pop();
            // The permit is dropped after the loan, so that its next holder finds a connection.
            let _permit = permit;
            let loan = Loan { connection, idle };
            let connection = loan.connection.as_ref().ok_or_else(suspended)?;
            let snapshot = connection.unchecked_transaction().map_err(Failure::from)?;
            Ok(work(&snapshot)?)
        });
        reading.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    /// As [`Self::read`], for work that may take long, of a tenant or of the server itself.
    pub(super) async fn read_slowly<T, W>(&self, tenant: Option<TenantSeq>, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let _slow = self.slow_permits.acquire(tenant).await;
        self.read(work).await
    }

    /// Waits for the reads under way, then closes the connections. Later reads fail.
    pub(super) async fn close(&self) {
        if let Ok(_all) = self.permits.acquire_many(READERS).await {
            self.permits.close();
            self.idle.lock().clear();
        }
    }
}

fn interrupts(connections: &[Connection]) -> Vec<InterruptHandle> {
    connections.iter().map(Connection::get_interrupt_handle).collect()
}

fn suspended() -> StoreError {
    StoreError::Unavailable("it is being opened anew after the disk failed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn slow_reads_leave_readers_for_quick_ones() {
        let connections = (0..READERS).map(|_| Connection::open_in_memory().expect("a connection")).collect();
        let readers = Arc::new(Readers::new(connections));
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let (begun, mut beginnings) = tokio::sync::mpsc::unbounded_channel();
        let slow: Vec<_> = (0..2 * READERS)
            .map(|n| {
                let (readers, released, begun) = (Arc::clone(&readers), Arc::clone(&released), begun.clone());
                tokio::spawn(async move {
                    let work = move |_: &Connection| {
                        begun.send(()).expect("the test listens");
                        // Ends when the test lets go of the other end.
                        let _ = released.lock().recv();
                        Ok(())
                    };
                    readers.read_slowly(Some(TenantSeq(i64::from(n % 3))), work).await
                })
            })
            .collect();
        for _ in 0..SLOW_READERS {
            beginnings.recv().await.expect("a slow read begins");
        }
        for _ in 0..10 {
            let quick = readers.read(|connection| Ok(connection.query_row("SELECT 1", (), |row| row.get(0))?));
            let answer: i64 = tokio::time::timeout(Duration::from_secs(20), quick)
                .await
                .expect("quick reads do not wait for slow ones")
                .expect("it reads");
            assert_eq!(answer, 1);
        }
        assert!(beginnings.try_recv().is_err(), "no more than half of the readers are slow");
        drop(release);
        for slow in slow {
            slow.await.expect("it does not panic").expect("its turn comes");
        }
        readers.close().await;
    }
}
