//! Imports: webhooks of another sender, judged one by one and made together.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::audit::record;
use super::tenants;
use super::webhook_columns::Columns;
use super::webhooks;
use crate::clock::UnixMicros;
use crate::store::failure::Failure;
use crate::store::import::{Import, ImportTenant, ImportVerdict, Imported, ImportedWebhook};
use crate::store::sql::{Fields, Select, Sql, Value};
use crate::store::{Deed, MAX_TENANT_SETTINGS_BYTES, Quotas, StoreError};
use crate::webhook::{TenantSeq, WebhookRecord};

/// What is known of a tenant while its webhooks are judged.
#[derive(Default)]
struct Room {
    max_webhooks: Option<u32>,
    webhooks: u64,
    settings_bytes: u64,
    /// Names given by this import.
    names: HashSet<String>,
}

impl Room {
    fn of(sql: &mut dyn Select, tenant: TenantSeq, quotas: Quotas) -> Result<Self, Failure> {
        let (webhooks, settings_bytes) = (webhooks::count(sql, tenant)?, webhooks::settings_bytes(sql, tenant)?);
        Ok(Self { max_webhooks: quotas.max_webhooks, webhooks, settings_bytes, names: HashSet::new() })
    }

    /// Takes a place for a webhook that is to be made.
    fn take(&mut self, webhook: &ImportedWebhook, bytes: u64) -> Result<(), ImportVerdict> {
        let refused = |field, error: &StoreError| Err(ImportVerdict::Refused { field, reason: error.to_string() });
        if let Some(max) = self.max_webhooks.filter(|max| self.webhooks >= u64::from(*max)) {
            return refused("tenant", &StoreError::TooManyWebhooks { max });
        }
        let (bytes, max) = (self.settings_bytes.saturating_add(bytes), MAX_TENANT_SETTINGS_BYTES);
        if bytes > max {
            return refused("tenant", &StoreError::TooManySettings { bytes, max });
        }
        if !self.names.insert(webhook.settings.name.clone()) {
            return refused("name", &StoreError::NameTaken);
        }
        self.webhooks += 1;
        self.settings_bytes = bytes;
        Ok(())
    }
}

/// The verdicts that an import would come to now.
pub(super) fn rehearse(sql: &mut dyn Select, import: &Import) -> Result<Imported, Failure> {
    let mut rooms = BTreeMap::new();
    for tenant in known_tenants(import) {
        let quotas = tenants::by_seq(sql, tenant)?.quotas;
        rooms.insert(ImportTenant::Known(tenant), Room::of(sql, tenant, quotas)?);
    }
    Ok(Imported { verdicts: judge(sql, import, rooms)?, ..Imported::default() })
}

/// Makes all that is new, or nothing.
pub(super) fn import(sql: &mut dyn Sql, import: &Import, now: UnixMicros) -> Result<Imported, Failure> {
    let mut rooms = BTreeMap::new();
    // In one order, so that two imports do not wait for each other.
    for tenant in known_tenants(import) {
        let quotas = tenants::lock(sql, tenant)?.quotas;
        rooms.insert(ImportTenant::Known(tenant), Room::of(sql, tenant, quotas)?);
    }
    let verdicts = judge(sql, import, rooms)?;
    let mut done = Imported { verdicts, ..Imported::default() };
    if !import.goes_on(&done.verdicts) {
        return Ok(done);
    }
    let new = || import.webhooks.iter().zip(&done.verdicts).filter(|(_, verdict)| **verdict == ImportVerdict::New);
    // A tenant without a webhook is not made.
    let places: BTreeSet<usize> = new().filter_map(|(webhook, _)| place(webhook.tenant)).collect();
    let mut made_tenants = BTreeMap::new();
    let patches = places.iter().filter_map(|place| Some((*place, import.new_tenants.get(*place)?)));
    let patches: Vec<_> = patches.collect();
    // What is refused is refused before anything is written, since other calls may share the transaction.
    sql.lock_tenant_names()?;
    for (_, patch) in &patches {
        tenants::refuse_taken(sql, patch)?;
    }
    for (place, patch) in patches {
        made_tenants.insert(place, tenants::create(sql, patch, now)?);
    }
    let mut made = Vec::new();
    for (webhook, _) in new() {
        let tenant = match webhook.tenant {
            ImportTenant::Known(tenant) => Some(tenant),
            ImportTenant::New(place) => made_tenants.get(&place).map(|tenant| tenant.seq),
        };
        made.push(insert(sql, webhook, tenant.ok_or(StoreError::NotFound)?, now)?);
    }
    done.made = made;
    done.made_tenants = made_tenants.into_values().collect();
    Ok(done)
}

fn known_tenants(import: &Import) -> BTreeSet<TenantSeq> {
    let known = |webhook: &ImportedWebhook| match webhook.tenant {
        ImportTenant::Known(tenant) => Some(tenant),
        ImportTenant::New(_) => None,
    };
    import.webhooks.iter().filter_map(known).collect()
}

fn place(tenant: ImportTenant) -> Option<usize> {
    match tenant {
        ImportTenant::Known(_) => None,
        ImportTenant::New(place) => Some(place),
    }
}

fn judge(
    sql: &mut dyn Select,
    import: &Import,
    mut rooms: BTreeMap<ImportTenant, Room>,
) -> Result<Vec<ImportVerdict>, Failure> {
    let mut seen = HashSet::new();
    let mut verdicts = Vec::with_capacity(import.webhooks.len());
    for webhook in &import.webhooks {
        let verdict = if seen.insert(webhook.uuid) {
            let room = rooms.entry(webhook.tenant).or_insert_with(|| Room {
                max_webhooks: place(webhook.tenant).and_then(|place| import.new_tenants.get(place)?.max_webhooks?),
                ..Room::default()
            });
            judge_one(sql, webhook, room)?
        } else {
            refused("uuid", "is given twice")
        };
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn judge_one(sql: &mut dyn Select, webhook: &ImportedWebhook, room: &mut Room) -> Result<ImportVerdict, Failure> {
    let owner = sql.query_row("SELECT tenant, deleted_at FROM webhook WHERE uuid = ?1", &[webhook.uuid.into()])?;
    if let Some(row) = owner {
        let mut fields = Fields::of(row);
        let (tenant, deleted_at) = (fields.next::<TenantSeq>()?, fields.next::<Option<UnixMicros>>()?);
        return match webhooks::by_uuid(sql, tenant, webhook.uuid)? {
            _ if deleted_at.is_some() => Ok(refused("uuid", "was that of a webhook which was deleted here")),
            Some(record) if ImportTenant::Known(tenant) == webhook.tenant => Ok(compared(&record, webhook)),
            _ => Ok(refused("uuid", "is that of a webhook of another tenant")),
        };
    }
    if let ImportTenant::Known(tenant) = webhook.tenant
        && webhooks::owner_of_name(sql, tenant, &webhook.settings.name)?.is_some()
    {
        return Ok(ImportVerdict::Refused { field: "name", reason: StoreError::NameTaken.to_string() });
    }
    let tenant = match webhook.tenant {
        ImportTenant::Known(tenant) => tenant,
        // The length of what is sealed does not depend on it.
        ImportTenant::New(_) => TenantSeq(0),
    };
    let bytes = Columns::of(&webhook.settings, sql.sealer(), tenant, webhook.uuid)?.settings_bytes();
    Ok(room.take(webhook, bytes).err().unwrap_or(ImportVerdict::New))
}

fn refused(field: &'static str, reason: &str) -> ImportVerdict {
    ImportVerdict::Refused { field, reason: reason.to_owned() }
}

fn compared(record: &WebhookRecord, webhook: &ImportedWebhook) -> ImportVerdict {
    let mut fields = record.settings.changed_fields(&webhook.settings);
    fields.retain(|field| match field.as_str() {
        "secret" => webhook.gives_secret,
        "standard_secret" => webhook.gives_standard_key,
        _ => true,
    });
    if fields.is_empty() { ImportVerdict::Same } else { ImportVerdict::Differs(fields) }
}

fn insert(
    sql: &mut dyn Sql,
    webhook: &ImportedWebhook,
    tenant: TenantSeq,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let ImportedWebhook { uuid, settings, health, switched_off, created_at, .. } = webhook;
    let columns = Columns::of(settings, sql.sealer(), tenant, *uuid)?;
    let seq = webhooks::insert(sql, *uuid, tenant, columns, switched_off.as_ref(), (*created_at, now))?;
    let cool_down_us = i64::try_from(health.cool_down.as_micros()).unwrap_or(i64::MAX);
    let values: [Value; 8] = [
        seq.into(),
        health.consecutive_failures.into(),
        health.last_success_at.into(),
        health.last_failure_at.into(),
        health.last_error.as_ref().into(),
        health.auto_disabled_at.into(),
        health.probe_at.into(),
        cool_down_us.into(),
    ];
    sql.execute(
        "INSERT INTO webhook_health (
             seq, consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at,
             cool_down_us
         ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &values,
    )?;
    sql.made_webhook(seq, *uuid, tenant)?;
    record(sql, &Deed::of("webhook.import", tenant, *uuid, now).named(&settings.name))?;
    Ok(WebhookRecord {
        seq,
        uuid: *uuid,
        tenant,
        version: 1,
        settings: settings.clone(),
        health: health.clone(),
        switched_off: switched_off.clone(),
        created_at: *created_at,
        updated_at: now,
    })
}
