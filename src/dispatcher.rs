//! Delivering: wake → fill lanes → start attempts → settle.

use crate::delivery::retry::Schedule;

/// The dispatcher's limits.
#[derive(Clone, Debug, PartialEq)]
pub struct DispatcherSettings {
    /// Attempts under way at once, over all webhooks.
    pub max_in_flight: usize,
    /// Deliveries that one lane keeps in memory; more wait in the store.
    pub max_lane_deliveries: usize,
    /// Bytes of event bodies that all lanes together keep in memory; more wait in the store.
    pub max_memory_bytes: usize,
    /// For webhooks that set none.
    pub retry_schedule: Schedule,
    /// Failed attempts in a row after which a circuit opens.
    pub circuit_threshold: u32,
}

/// What happened since the start (counters) and what is going on (gauges).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub events_accepted: u64,
    pub events_duplicate: u64,
    pub attempts_succeeded: u64,
    pub attempts_failed: u64,
    pub deliveries_delivered: u64,
    pub deliveries_dead: u64,
    pub lanes: u64,
    pub circuits_open: u64,
    /// Attempts under way.
    pub in_flight: u64,
    /// Deliveries waiting in memory.
    pub queued: u64,
    /// Bytes of event bodies in memory.
    pub memory_bytes: u64,
}

pub struct Dispatcher {}

impl Dispatcher {
    pub fn figures(&self) -> Figures {
        todo!()
    }
}
