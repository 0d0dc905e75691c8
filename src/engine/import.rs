//! The import of webhooks that another sender had: judged together, made together, and then known as if each were created.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{ChangeError, Engine, operations, to_the_end};
use crate::clock::UnixMicros;
use crate::store::import::{Import, ImportTenant, ImportVerdict, Imported, ImportedWebhook};
use crate::store::{Act, StoreError, TenantPatch};
use crate::webhook::{SwitchedOff, TenantSeq, WebhookHealth, WebhookPatch, WebhookSettings};

/// The most webhooks imported together. All are made in one transaction, while no other webhook of the node is changed.
pub const MAX_IMPORTED_WEBHOOKS: usize = 10_000;

/// A webhook as another sender had it.
pub struct ImportRow {
    /// The id that it keeps.
    pub uuid: Uuid,
    /// A name or a UUID; `None`: that of the act.
    pub tenant: Option<String>,
    pub settings: WebhookPatch,
    pub health: WebhookHealth,
    /// Why and when the other sender turned it off, if it did.
    pub switched_off: Option<SwitchedOff>,
    /// `None`: now.
    pub created_at: Option<UnixMicros>,
}

/// What is made of the rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Nothing is made.
    pub dry_run: bool,
    /// The others are made where one is refused.
    pub skip_refused: bool,
    /// Tenants that are not there are made.
    pub create_tenants: bool,
}

/// What became of one row.
pub struct RowOutcome {
    pub uuid: Uuid,
    pub name: String,
    /// The name of its tenant.
    pub tenant: String,
    pub verdict: RowVerdict,
}

/// What became of one row, with all faults of one that is refused: the field, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub enum RowVerdict {
    New,
    Same,
    Differs(Vec<String>),
    Refused(Vec<(String, String)>),
}

/// What became of an import.
pub struct ImportOutcome {
    /// In the order of the rows.
    pub rows: Vec<RowOutcome>,
    /// Whether what is new was made.
    pub is_done: bool,
    /// The tenants that were made.
    pub made_tenants: Vec<String>,
}

/// Rows on their way into the store.
struct Candidates {
    import: Import,
    /// For each webhook of `import` the row that it is from.
    rows: Vec<usize>,
    outcomes: Vec<RowOutcome>,
}

impl Engine {
    /// Makes the webhooks of all rows that are new, or none if one is refused and `options` do not skip it. There are at
    /// most [`MAX_IMPORTED_WEBHOOKS`].
    pub async fn import(
        self: &Arc<Self>,
        act: Act,
        rows: Vec<ImportRow>,
        options: ImportOptions,
    ) -> Result<ImportOutcome, StoreError> {
        let engine = Arc::clone(self);
        to_the_end(async move {
            // Some thousand rows take a while.
            let (checking, tenant) = (Arc::clone(&engine), act.tenant);
            let checked = tokio::task::spawn_blocking(move || checking.check(tenant, rows, options));
            let candidates = checked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let is_refused = candidates.outcomes.iter().any(RowOutcome::is_refused);
            let is_rehearsal = options.dry_run || (is_refused && !options.skip_refused);
            let Candidates { import, rows, mut outcomes } = candidates;
            let import = Arc::new(import);
            let rehearsed = engine.store.rehearse_import(Arc::clone(&import)).await?;
            // An import that is repeated keeps nobody from writing.
            let makes_any = rehearsed.verdicts.contains(&ImportVerdict::New) && import.goes_on(&rehearsed.verdicts);
            let done = if is_rehearsal || !makes_any { rehearsed } else { engine.make_imported(&act, &import).await? };
            for (row, verdict) in rows.into_iter().zip(done.verdicts) {
                outcomes[row].verdict = verdict.into();
            }
            let is_refused = outcomes.iter().any(RowOutcome::is_refused);
            Ok(ImportOutcome {
                is_done: !options.dry_run && (options.skip_refused || !is_refused),
                rows: outcomes,
                made_tenants: done.made_tenants.into_iter().map(|tenant| tenant.name).collect(),
            })
        })
        .await
    }

    async fn make_imported(self: &Arc<Self>, act: &Act, import: &Arc<Import>) -> Result<Imported, StoreError> {
        let in_order = self.changes.lock().await;
        let done = self.store.audited(act).import(Arc::clone(import), self.now()).await?;
        for tenant in &done.made_tenants {
            self.tenants.apply(tenant.clone());
        }
        for record in &done.made {
            self.dispatcher.add(record);
            self.ingest.apply(record);
        }
        operations::tell_created(self, &done.made).await;
        drop(in_order);
        if !done.made.is_empty() {
            self.make_known().await?;
        }
        Ok(done)
    }

    /// Checks the settings of each row by itself, as those of a new webhook are checked.
    fn check(&self, own: TenantSeq, rows: Vec<ImportRow>, options: ImportOptions) -> Candidates {
        let mut tenants = NewTenants::default();
        let mut candidates =
            Candidates { import: Import::default(), rows: Vec::new(), outcomes: Vec::with_capacity(rows.len()) };
        candidates.import.skip_refused = options.skip_refused;
        for (place, row) in rows.into_iter().enumerate() {
            let (uuid, name) = (row.uuid, row.settings.name.clone().unwrap_or_default());
            let tenant = self.import_tenant(own, row.tenant.as_deref(), &mut tenants, options);
            let shown = match (&row.tenant, self.tenants.get(own)) {
                (Some(named), _) => self.tenants.find(named).map_or_else(|| named.clone(), |tenant| tenant.name),
                (None, Some(own)) => own.name().to_owned(),
                (None, None) => String::new(),
            };
            let webhook = self.imported(row);
            let verdict = match (tenant, webhook) {
                (Ok(tenant), Ok(webhook)) => {
                    candidates.rows.push(place);
                    candidates.import.webhooks.push(ImportedWebhook { tenant, ..webhook });
                    RowVerdict::New
                }
                (tenant, webhook) => {
                    let faults = tenant.err().into_iter().flatten();
                    RowVerdict::Refused(faults.chain(webhook.err().into_iter().flatten()).collect())
                }
            };
            candidates.outcomes.push(RowOutcome { uuid, name, tenant: shown, verdict });
        }
        candidates.import.new_tenants = tenants.patches;
        candidates
    }

    fn import_tenant(
        &self,
        own: TenantSeq,
        named: Option<&str>,
        new: &mut NewTenants,
        options: ImportOptions,
    ) -> Result<ImportTenant, Vec<(String, String)>> {
        let Some(name) = named else { return Ok(ImportTenant::Known(own)) };
        if let Some(tenant) = self.tenants.find(name) {
            return Ok(ImportTenant::Known(tenant.seq));
        }
        let fault = |reason: String| vec![("tenant".to_owned(), reason)];
        if !options.create_tenants {
            return Err(fault(format!("there is no tenant {name:?}, and it is not to be made")));
        }
        let patch = TenantPatch { name: Some(name.to_owned()), ..TenantPatch::default() };
        if let Some((_, reason)) = patch.faults().into_iter().next() {
            return Err(fault(reason));
        }
        Ok(ImportTenant::New(new.place(name, patch.or(self.tenants.quotas_of_new()))))
    }

    /// The webhook of a row, for a tenant that is not known yet.
    fn imported(&self, row: ImportRow) -> Result<ImportedWebhook, Vec<(String, String)>> {
        let now = self.now();
        let (gives_secret, gives_standard_key) =
            (row.settings.secret.is_some(), row.settings.standard_secret.is_some());
        let checked = WebhookSettings::import(row.settings).map_err(ChangeError::Invalid);
        let settings = checked.and_then(|settings| self.vet(&settings).map(|()| settings)).map_err(faults)?;
        if row.switched_off.is_some() && settings.enabled {
            let reason = "is given, and `enabled` is not false".to_owned();
            return Err(vec![("disabled_reason".to_owned(), reason)]);
        }
        // A clock that goes before this one must not make what is younger than now.
        let past = |at: UnixMicros| at.min(now);
        let health = row.health;
        let auto_disabled_at = health.auto_disabled_at.map(past);
        Ok(ImportedWebhook {
            uuid: row.uuid,
            tenant: ImportTenant::New(usize::MAX),
            settings,
            gives_secret,
            gives_standard_key,
            health: WebhookHealth {
                last_success_at: health.last_success_at.map(past),
                last_failure_at: health.last_failure_at.map(past),
                auto_disabled_at,
                // An open circuit is probed at once.
                probe_at: auto_disabled_at.and(Some(now)),
                ..health
            },
            switched_off: row.switched_off.map(|off| SwitchedOff { at: past(off.at), ..off }),
            created_at: row.created_at.map_or(now, past),
        })
    }
}

/// Tenants that the rows so far need and that are not there.
#[derive(Default)]
struct NewTenants {
    patches: Vec<TenantPatch>,
    places: HashMap<String, usize>,
}

impl NewTenants {
    fn place(&mut self, name: &str, patch: TenantPatch) -> usize {
        *self.places.entry(name.to_owned()).or_insert_with(|| {
            self.patches.push(patch);
            self.patches.len() - 1
        })
    }
}

impl RowOutcome {
    fn is_refused(&self) -> bool {
        matches!(self.verdict, RowVerdict::Refused(_))
    }
}

impl From<ImportVerdict> for RowVerdict {
    fn from(verdict: ImportVerdict) -> Self {
        match verdict {
            ImportVerdict::New => Self::New,
            ImportVerdict::Same => Self::Same,
            ImportVerdict::Differs(fields) => Self::Differs(fields),
            ImportVerdict::Refused { field, reason } => Self::Refused(vec![(field.to_owned(), reason)]),
        }
    }
}

fn faults(error: ChangeError) -> Vec<(String, String)> {
    match error {
        ChangeError::Invalid(errors) => {
            errors.iter().map(|error| (error.field().to_owned(), error.to_string())).collect()
        }
        error => vec![("settings".to_owned(), error.to_string())],
    }
}
