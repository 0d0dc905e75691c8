//! Shares of the process's descriptors: for clients, for receivers, for lookups of names, and for the store with everything
//! else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::connections::ALL_RESERVED_CONNECTIONS;
use crate::delivery::client::SocketLimits;
use crate::dispatcher::DispatcherSettings;

/// The most open connections of clients, if the process may open enough files. Further ones wait in the kernel's
/// backlog.
const MAX_CONNECTIONS: usize = 8_192;
/// A lower limit than this is logged as a warning.
const FEW_CONNECTIONS: usize = 1_024;
/// Clients may take one in this many descriptors.
const CLIENTS_SHARE: usize = 4;
/// Lookups of names may take one in this many; each lookup takes up to [`LOOKUP_SOCKETS`].
const LOOKUPS_SHARE: usize = 8;
const LOOKUP_SOCKETS: usize = 2;
/// Descriptors that neither clients nor receivers can take: for the embedded store, the listener, the runtime and the log.
const RESERVED_FILES: usize = 64;
/// The fewest descriptors for receivers: the lowest value of `max_in_flight`.
const MIN_RECEIVERS: usize = 3;

/// Shares of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    pub(super) clients: usize,
    /// `None`: no limit.
    pub(super) receivers: Option<SocketLimits>,
}

impl Descriptors {
    /// Shares out `limit`; `None`: no limit. `store`: connections of the store, beside its files.
    pub(super) fn shared_out(limit: Option<u64>, store: usize) -> Self {
        let Some(limit) = limit else { return Self { clients: MAX_CONNECTIONS, receivers: None } };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let clients = (limit / CLIENTS_SHARE).clamp(1, MAX_CONNECTIONS);
        let of_lookups = limit / LOOKUPS_SHARE;
        let rest = limit.saturating_sub(clients + ALL_RESERVED_CONNECTIONS + of_lookups + RESERVED_FILES + store);
        let lookups = (of_lookups / LOOKUP_SOCKETS).max(1);
        if clients < FEW_CONNECTIONS {
            let (max_connections, to_receivers) = (clients, rest.max(MIN_RECEIVERS));
            tracing::warn!(
                max_connections,
                to_receivers,
                file_limit = limit,
                "few connections at once are possible: raise the limit of open files"
            );
        }
        Self { clients, receivers: Some(SocketLimits { connections: rest.max(MIN_RECEIVERS), lookups }) }
    }

    /// The settings, with at most as many concurrent attempts as connections to receivers.
    pub(super) fn within(&self, settings: DispatcherSettings) -> DispatcherSettings {
        let wanted = settings.max_in_flight;
        let most = self.receivers.map_or(wanted, |receivers| receivers.connections);
        if most < wanted {
            tracing::warn!(
                max_in_flight = most,
                wanted,
                "fewer attempts at once are made than `max_in_flight` allows: raise the limit of open files"
            );
        }
        DispatcherSettings { max_in_flight: wanted.min(most), ..settings }
    }
}

/// Raises the soft limit, usually 1,024, since every connection takes a file descriptor. Returns the new limit; `None`:
/// no limit.
pub(super) fn raise_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, limit = ?current, "cannot raise the limit of open files");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_out_is_no_more_than_there_is() {
        let shares = |limit| {
            let Descriptors { clients, receivers } = Descriptors::shared_out(limit, 20);
            let receivers = receivers.unwrap_or(SocketLimits { connections: 0, lookups: 0 });
            (clients, receivers.connections, receivers.lookups)
        };
        assert_eq!(shares(None), (8_192, 0, 0));
        assert_eq!(shares(Some(1_048_576)), (8_192, 909_196, 65_536));
        assert_eq!(shares(Some(4_096)), (1_024, 2_444, 256));
        assert_eq!(shares(Some(256)), (64, 44, 16));
        assert_eq!(shares(Some(2)), (1, 3, 1));
        for limit in [200, 256, 300, 1_000, 1_024, 5_000, 100_000] {
            let (clients, receivers, lookups) = shares(Some(limit));
            let sum = clients + ALL_RESERVED_CONNECTIONS + receivers + lookups * LOOKUP_SOCKETS + RESERVED_FILES + 20;
            assert!(sum as u64 <= limit, "{limit}: {sum}");
        }
    }
}
