//! Idle connections for callers that keep none of their own: [`deliver`](crate::delivery::deliver)
//! and plain requests. The lanes of a server own their connections and do not come here.

use std::collections::HashMap;

use super::Connection;
use super::route::{RouteId, Target};
use crate::delivery::guard::{Destination, Host};

/// The most idle connections to one origin.
const MAX_IDLE_PER_ORIGIN: usize = 8;
/// The most idle connections altogether.
const MAX_IDLE_TOTAL: usize = 256;

/// What a connection was made for, and how: one that was made with a client certificate or through a proxy is not
/// for those who have another or none. Its address is checked against the host's present ones when it is
/// used again, so that a connection never outlives a name's move.
type Origin = (bool, Host, u16, Option<RouteId>);

#[derive(Default)]
pub(super) struct Pool {
    idle: HashMap<Origin, Vec<Connection>>,
    count: usize,
}

fn origin(destination: &Destination, route: Option<RouteId>) -> Origin {
    (destination.is_tls(), destination.host().clone(), destination.port(), route)
}

impl Pool {
    /// The connection to the target that was used last.
    pub(super) fn take(&mut self, target: Target<'_>) -> Option<Connection> {
        let connection = self.idle.get_mut(&origin(target.destination, target.route_id()))?.pop()?;
        self.count -= 1;
        Some(connection)
    }

    /// Keeps a connection while there is room, and drops those that were closed meanwhile to make some.
    pub(super) fn put(&mut self, connection: Connection) {
        if self.count >= MAX_IDLE_TOTAL {
            for connections in self.idle.values_mut() {
                connections.retain_mut(Connection::is_usable);
            }
            self.idle.retain(|_, connections| !connections.is_empty());
            self.count = self.idle.values().map(Vec::len).sum();
        }
        if self.count >= MAX_IDLE_TOTAL {
            return;
        }
        let connections = self.idle.entry(origin(connection.destination(), connection.route())).or_default();
        if connections.len() < MAX_IDLE_PER_ORIGIN {
            connections.push(connection);
            self.count += 1;
        }
    }
}
