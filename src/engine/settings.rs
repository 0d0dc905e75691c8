//! The settings of a node.

use std::time::Duration;

use super::figures::FigureSettings;
use super::nodes::NodeSettings;
use super::retention::RetentionSettings;
use crate::dispatcher::DispatcherSettings;
use crate::store::Quotas;

/// The default time for which an idempotency key is kept.
pub const DEFAULT_IDEMPOTENCY_TTL: Duration = Duration::from_hours(24);

/// The settings of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    pub dispatcher: DispatcherSettings,
    pub retention: RetentionSettings,
    pub figures: FigureSettings,
    /// The time for which the receipts of a request with an idempotency key are kept.
    pub idempotency_ttl: Duration,
    /// The default quotas of a new tenant.
    pub new_tenant_quotas: Quotas,
    pub node: NodeSettings,
}

/// Everything is kept for ever, and tenants have no quotas.
impl From<DispatcherSettings> for EngineSettings {
    fn from(dispatcher: DispatcherSettings) -> Self {
        let (retention, idempotency_ttl) = (RetentionSettings::FOREVER, DEFAULT_IDEMPOTENCY_TTL);
        let (new_tenant_quotas, node) = (Quotas::default(), NodeSettings::default());
        let figures = FigureSettings::default();
        Self { dispatcher, retention, figures, idempotency_ttl, new_tenant_quotas, node }
    }
}
