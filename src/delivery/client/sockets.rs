//! The share of the process's descriptors for connections to receivers, which leaves the others theirs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::delivery::End;

/// When fewer than this part of the connections are left, none is kept idle.
const FEW_SHARE: usize = 4;

/// What a client may have open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLimits {
    /// To receivers, proxies and token endpoints, idle ones included.
    pub connections: usize,
    /// Names that are being resolved; each may take two sockets.
    pub lookups: usize,
}

pub(super) struct Sockets {
    connections: Arc<Semaphore>,
    few: usize,
    lookups: Semaphore,
}

/// Held as long as a connection is open.
pub(super) type Socket = Option<OwnedSemaphorePermit>;

impl Sockets {
    /// `None`: as many as the system gives.
    pub(super) fn new(limits: Option<SocketLimits>) -> Self {
        let most = Semaphore::MAX_PERMITS;
        let limits = limits.unwrap_or(SocketLimits { connections: most, lookups: most });
        let (connections, lookups) = (limits.connections.clamp(1, most), limits.lookups.clamp(1, most));
        let few = if connections == most { 0 } else { connections / FEW_SHARE };
        Self { connections: Arc::new(Semaphore::new(connections)), few, lookups: Semaphore::new(lookups) }
    }

    /// The place of a connection to be opened, or of none if this is over.
    pub(super) async fn connection(&self, within: Duration) -> Result<Socket, End> {
        let place = tokio::time::timeout(within, Arc::clone(&self.connections).acquire_owned()).await;
        place.map(Result::ok).map_err(|_| none_free())
    }

    pub(super) async fn lookup(&self) -> Option<SemaphorePermit<'_>> {
        self.lookups.acquire().await.ok()
    }

    /// Few connections can be opened beside those that are.
    pub(super) fn are_few(&self) -> bool {
        self.connections.available_permits() < self.few
    }
}

/// Nothing that the receiver has done: tried again, and not counted against it.
pub(super) fn none_free() -> End {
    End::Local("no file descriptor is free for another connection: raise the limit of open files".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_a_place_and_says_that_the_machine_has_none() {
        let sockets = Sockets::new(Some(SocketLimits { connections: 8, lookups: 1 }));
        let mut open = Vec::new();
        for left in (0..8).rev() {
            open.push(sockets.connection(Duration::from_secs(5)).await.unwrap());
            assert_eq!(sockets.are_few(), left < 2, "{left} left");
        }
        let none = sockets.connection(Duration::from_secs(5)).await;
        assert!(matches!(none, Err(End::Local(_))), "{none:?}");
        open.pop();
        assert!(sockets.connection(Duration::ZERO).await.is_ok());
    }

    #[tokio::test]
    async fn without_limits_there_are_always_places() {
        let sockets = Sockets::new(None);
        let _open = sockets.connection(Duration::ZERO).await.unwrap();
        assert!(!sockets.are_few());
    }
}
