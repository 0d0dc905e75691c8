//! Webhooks that another sender had, all made in one transaction or none.

use uuid::Uuid;

use super::{TenantPatch, TenantRecord};
use crate::clock::UnixMicros;
use crate::webhook::{SwitchedOff, TenantSeq, WebhookHealth, WebhookRecord, WebhookSettings};

/// A webhook to be made, with what it was elsewhere.
#[derive(Clone, Debug)]
pub struct ImportedWebhook {
    pub uuid: Uuid,
    pub tenant: ImportTenant,
    pub settings: WebhookSettings,
    /// Whether the key came along. One that was made because none did is not compared with that of a webhook that is there.
    pub gives_secret: bool,
    pub gives_standard_key: bool,
    pub health: WebhookHealth,
    /// Only of one that is not enabled.
    pub switched_off: Option<SwitchedOff>,
    pub created_at: UnixMicros,
}

/// The tenant of an imported webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportTenant {
    /// It is there.
    Known(TenantSeq),
    /// It is to be made: a place in [`Import::new_tenants`].
    New(usize),
}

/// What is to be imported together.
#[derive(Clone, Debug, Default)]
pub struct Import {
    pub webhooks: Vec<ImportedWebhook>,
    pub new_tenants: Vec<TenantPatch>,
    /// Whether the others are made where one is refused.
    pub skip_refused: bool,
}

/// What an import makes of one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportVerdict {
    /// It is made, or would be.
    New,
    /// It is there, and alike.
    Same,
    /// It is there with other values of these fields, and is left alone.
    Differs(Vec<String>),
    /// It cannot be made, because of this field.
    Refused { field: &'static str, reason: String },
}

/// What an import has done. Nothing but the verdicts if it made nothing.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// In the order of [`Import::webhooks`].
    pub verdicts: Vec<ImportVerdict>,
    pub made: Vec<WebhookRecord>,
    pub made_tenants: Vec<TenantRecord>,
}

impl Import {
    /// Whether these verdicts let anything be made.
    #[must_use]
    pub fn goes_on(&self, verdicts: &[ImportVerdict]) -> bool {
        self.skip_refused || !verdicts.iter().any(|verdict| matches!(verdict, ImportVerdict::Refused { .. }))
    }
}
