//! What operators write: webhooks, tenants, tokens, replay jobs, and the lines that they leave in the audit log. Each is
//! written once for both stores, over [`Sql`]; a new record is one more file here, and a table in each schema.

pub(super) mod audit;
pub(super) mod codes;
mod figures;
mod imports;
pub(super) mod inlets;
mod rejected;
pub(super) mod replays;
pub(super) mod tenants;
mod tokens;
pub(super) mod webhook_columns;
mod webhook_keys;
pub(super) mod webhooks;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::failure::Failure;
use super::figures::{FigureOf, RankBy, Ranking, Tallied};
use super::import::{Import, Imported};
use super::rejected::{NewRejected, Rejected};
use super::replay::{NewReplay, ReplayFilter, ReplayRecord, ReplayState};
use super::sql::{Select, Sql};
use super::{
    AllWebhooks, Deed, DeletedTenant, NewToken, Page, PageOf, Store, StoreError, TenantKey, TenantPatch, TenantRecord,
    TokenRecord,
};
use crate::clock::UnixMicros;
use crate::figures::{Figure, Span, Step};
use crate::inlet::{InletRecord, InletSettings};
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq, WebhookSettings};

type Work = dyn Fn(&mut dyn Sql) -> Result<(), Failure> + Send + Sync;
type Look = dyn FnOnce(&mut dyn Select) -> Result<(), Failure> + Send;

/// Work on records within a transaction of its own or shared. It may be done more than once.
pub struct Write {
    pub(super) work: Arc<Work>,
    /// Somebody waits for the commit.
    pub(super) is_urgent: bool,
}

/// Work on one state of the records.
pub struct Read {
    pub(super) work: Box<Look>,
}

/// Where work leaves what it came to.
struct Answer<T>(Arc<Mutex<Option<T>>>);

impl<T> Answer<T> {
    fn new() -> (Self, Self) {
        let place = Arc::new(Mutex::new(None));
        (Self(Arc::clone(&place)), Self(place))
    }

    fn set(&self, value: T) {
        *self.0.lock() = Some(value);
    }

    fn take(&self) -> Result<T, StoreError> {
        self.0.lock().take().ok_or_else(|| StoreError::Unavailable("the store did not do what it was asked".to_owned()))
    }
}

impl dyn Store {
    async fn write_with<T: Send + 'static>(
        &self,
        is_urgent: bool,
        work: impl Fn(&mut dyn Sql) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let (answer, given) = Answer::new();
        let work = Arc::new(move |sql: &mut dyn Sql| work(sql).map(|value| given.set(value)));
        self.write(Write { work, is_urgent }).await?;
        answer.take()
    }

    async fn change<T: Send + 'static>(
        &self,
        work: impl Fn(&mut dyn Sql) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.write_with(true, work).await
    }

    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Select) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, given) = Answer::new();
        self.read(Read { work: Box::new(move |sql| work(sql).map(|value| given.set(value))) }).await?;
        answer.take()
    }

    // --- webhooks ---

    /// A name that is taken is a [`StoreError::NameTaken`], one more than the tenant may have a
    /// [`StoreError::TooManyWebhooks`], more settings than
    /// [`MAX_TENANT_SETTINGS_BYTES`](super::MAX_TENANT_SETTINGS_BYTES) a [`StoreError::TooManySettings`].
    pub async fn create_webhook(
        &self,
        tenant: TenantSeq,
        settings: WebhookSettings,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        self.change(move |sql| webhooks::create(sql, tenant, &settings, now)).await
    }

    /// Makes webhooks that another sender had: all that are new or, if one is refused and [`Import::skip_refused`] is not
    /// set, none. A tenant that is gone is a [`StoreError::NotFound`].
    pub async fn import(&self, import: Arc<Import>, now: UnixMicros) -> Result<Imported, StoreError> {
        self.change(move |sql| imports::import(sql, &import, now)).await
    }

    /// What `import` would say now.
    pub async fn rehearse_import(&self, import: Arc<Import>) -> Result<Imported, StoreError> {
        self.look(move |sql| imports::rehearse(sql, &import)).await
    }

    /// Replaces the settings if the record still has `version`, otherwise [`StoreError::Stale`].
    /// `close_circuit` also clears the failures and `auto_disabled_at`.
    pub async fn update_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        version: i64,
        settings: WebhookSettings,
        close_circuit: bool,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        let update = webhooks::Update { version, settings, close_circuit, now };
        self.change(move |sql| webhooks::update(sql, tenant, uuid, &update)).await
    }

    /// Turns a webhook off on the program's own account, saying why; `None` if it is off or deleted already.
    pub async fn switch_off(
        &self,
        webhook: WebhookSeq,
        reason: &str,
        now: UnixMicros,
    ) -> Result<Option<WebhookRecord>, StoreError> {
        let reason = reason.to_owned();
        self.change(move |sql| webhooks::switch_off(sql, webhook, &reason, now)).await
    }

    /// Marks it deleted: it is gone from every listing, its name is free, its deliveries remain to be discarded.
    pub async fn delete_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        self.change(move |sql| webhooks::delete(sql, tenant, uuid, now)).await
    }

    pub async fn webhook(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<WebhookRecord>, StoreError> {
        self.look(move |sql| webhooks::by_uuid(sql, tenant, uuid)).await
    }

    /// Oldest first.
    pub async fn webhooks(&self, tenant: TenantSeq) -> Result<Vec<WebhookRecord>, StoreError> {
        self.look(move |sql| webhooks::list(sql, tenant)).await
    }

    /// The same in pages: those whose names have `q` in them, letters of ASCII in either case.
    pub async fn webhook_page(
        &self,
        tenant: TenantSeq,
        q: Option<&str>,
        page: Page,
    ) -> Result<PageOf<WebhookRecord>, StoreError> {
        let q = q.map(str::to_owned);
        self.look(move |sql| webhooks::page(sql, tenant, q.as_deref(), &page)).await
    }

    /// How many there are.
    pub async fn webhook_count(&self, tenant: TenantSeq) -> Result<u64, StoreError> {
        self.look(move |sql| webhooks::count(sql, tenant)).await
    }

    /// Every webhook of every tenant, and the deleted ones that still have stored pending deliveries.
    pub async fn all_webhooks(&self) -> Result<AllWebhooks, StoreError> {
        let deleted = self.deleted_webhooks().await?;
        Ok(AllWebhooks { live: self.look(webhooks::all).await?, deleted })
    }

    // --- tenants ---

    /// A patch without a name, or with one that is taken, is a [`StoreError::NameTaken`].
    pub async fn create_tenant(&self, patch: TenantPatch, now: UnixMicros) -> Result<TenantRecord, StoreError> {
        self.change(move |sql| tenants::create(sql, &patch, now)).await
    }

    /// Sets what is given. The tenant `default` keeps its name.
    pub async fn update_tenant(
        &self,
        tenant: impl Into<TenantKey>,
        patch: TenantPatch,
        now: UnixMicros,
    ) -> Result<TenantRecord, StoreError> {
        let tenant = tenant.into();
        self.change(move |sql| tenants::update(sql, &tenant, &patch, now)).await
    }

    /// Marks it deleted, with its webhooks, as `delete_webhook` does, and revokes its tokens. One
    /// that has webhooks or pending deliveries is a [`StoreError::Conflict`] without `force`, and `default` is one always.
    pub async fn delete_tenant(
        &self,
        tenant: impl Into<TenantKey>,
        force: bool,
        now: UnixMicros,
    ) -> Result<DeletedTenant, StoreError> {
        let tenant = tenant.into();
        self.change(move |sql| tenants::delete(sql, &tenant, force, now)).await
    }

    /// Oldest first.
    pub async fn tenants(&self) -> Result<Vec<TenantRecord>, StoreError> {
        self.look(tenants::list).await
    }

    /// The same in pages.
    pub async fn tenant_page(&self, page: Page) -> Result<PageOf<TenantRecord>, StoreError> {
        self.look(move |sql| tenants::page(sql, &page)).await
    }

    // --- tokens ---

    /// One more than the tenant may have is a [`StoreError::TooManyTokens`], but for an operator's.
    pub async fn create_token(&self, token: NewToken) -> Result<TokenRecord, StoreError> {
        self.change(move |sql| tokens::create(sql, &token)).await
    }

    /// How many are neither revoked nor expired at `now`.
    pub async fn token_count(&self, tenant: TenantSeq, now: UnixMicros) -> Result<u64, StoreError> {
        self.look(move |sql| tokens::count(sql, tenant, now)).await
    }

    /// The token, unless it is revoked.
    pub async fn token(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<TokenRecord>, StoreError> {
        self.look(move |sql| tokens::by_uuid(sql, tenant, uuid)).await
    }

    /// Oldest first.
    pub async fn tokens(&self, tenant: TenantSeq) -> Result<Vec<TokenRecord>, StoreError> {
        self.look(move |sql| tokens::list(sql, tenant)).await
    }

    /// The same in pages.
    pub async fn token_page(&self, tenant: TenantSeq, page: Page) -> Result<PageOf<TokenRecord>, StoreError> {
        self.look(move |sql| tokens::page(sql, tenant, &page)).await
    }

    /// `Ok(false)`: there is no such token.
    pub async fn revoke_token(&self, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, StoreError> {
        self.change(move |sql| tokens::revoke(sql, tenant, uuid, now)).await
    }

    /// The token with this SHA-256, unless it is revoked. Expiry is the caller's to judge.
    pub async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        self.look(move |sql| tokens::by_hash(sql, &hash)).await
    }

    /// Notes when a token was used.
    pub async fn touch_token(&self, uuid: Uuid, now: UnixMicros) -> Result<(), StoreError> {
        self.write_with(false, move |sql| tokens::touch(sql, uuid, now)).await
    }

    // --- inlets ---

    /// A name that is taken is a [`StoreError::NameTaken`], one more than [`MAX_TENANT_INLETS`](super::MAX_TENANT_INLETS) a
    /// [`StoreError::TooManyInlets`].
    pub async fn create_inlet(
        &self,
        tenant: TenantSeq,
        settings: InletSettings,
        now: UnixMicros,
    ) -> Result<InletRecord, StoreError> {
        self.change(move |sql| inlets::create(sql, tenant, &settings, now)).await
    }

    /// Replaces the settings if the record still has `version`, otherwise [`StoreError::Stale`].
    pub async fn update_inlet(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        version: i64,
        settings: InletSettings,
        now: UnixMicros,
    ) -> Result<InletRecord, StoreError> {
        self.change(move |sql| inlets::update(sql, tenant, uuid, version, &settings, now)).await
    }

    pub async fn delete_inlet(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        now: UnixMicros,
    ) -> Result<InletRecord, StoreError> {
        self.change(move |sql| inlets::delete(sql, tenant, uuid, now)).await
    }

    pub async fn inlet(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<InletRecord>, StoreError> {
        self.look(move |sql| inlets::by_uuid(sql, tenant, uuid)).await
    }

    /// The inlet of a URL, whatever its tenant.
    pub async fn inlet_at(&self, uuid: Uuid) -> Result<Option<InletRecord>, StoreError> {
        self.look(move |sql| inlets::at(sql, uuid)).await
    }

    /// Oldest first.
    pub async fn inlet_page(&self, tenant: TenantSeq, page: Page) -> Result<PageOf<InletRecord>, StoreError> {
        self.look(move |sql| inlets::page(sql, tenant, &page)).await
    }

    // --- replay jobs ---

    /// Makes a job that waits for its turn. It looks at the events accepted so far.
    pub async fn create_replay(
        &self,
        tenant: TenantSeq,
        job: NewReplay,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        self.change(move |sql| replays::create(sql, tenant, &job, now)).await
    }

    pub async fn replay(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, StoreError> {
        self.look(move |sql| replays::by_uuid(sql, tenant, uuid)).await
    }

    /// Newest first.
    pub async fn replays(
        &self,
        tenant: TenantSeq,
        filter: &ReplayFilter,
        page: Page,
    ) -> Result<PageOf<ReplayRecord>, StoreError> {
        let (ids, filter) = (self.delivery_ids().clone(), filter.clone());
        self.look(move |sql| replays::list(sql, &ids, tenant, &filter, &page)).await
    }

    /// Jobs of every tenant that have not ended, oldest first.
    pub async fn unfinished_replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        self.look(replays::unfinished).await
    }

    /// Ends a job early; one that has ended is a [`StoreError::Conflict`].
    pub async fn end_replay(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        state: ReplayState,
        reason: &str,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        let reason = reason.to_owned();
        self.change(move |sql| replays::end(sql, tenant, uuid, state, &reason, now)).await
    }

    // --- rejected messages of sources ---

    /// Keeps messages; one that is kept already, by the origin's id, gets the new reason. Returns how many older ones
    /// were pushed out by the bounds.
    pub async fn add_rejected(&self, messages: Vec<NewRejected>) -> Result<u64, StoreError> {
        self.change(move |sql| rejected::add(sql, &messages)).await
    }

    /// Of one source, oldest first, with the beginnings of the messages.
    pub async fn rejected_page(&self, source: &str, page: Page) -> Result<PageOf<Rejected>, StoreError> {
        let source = source.to_owned();
        self.look(move |sql| rejected::page(sql, &source, &page)).await
    }

    /// One message, whole.
    pub async fn rejected(&self, source: &str, uuid: Uuid) -> Result<Option<Rejected>, StoreError> {
        let source = source.to_owned();
        self.look(move |sql| rejected::by_uuid(sql, &source, uuid)).await
    }

    /// How many are kept of each source that has any.
    pub async fn rejected_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.look(rejected::counts).await
    }

    /// Forgets a message. `deed` is the name of the reason in the audit log.
    pub async fn delete_rejected(
        &self,
        source: &str,
        uuid: Uuid,
        deed: &'static str,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        let source = source.to_owned();
        self.change(move |sql| rejected::delete(sql, &source, uuid, deed, now)).await
    }

    /// Deletes messages from before `before`, in one small step. Returns whether more may be left.
    pub async fn purge_rejected(&self, before: UnixMicros) -> Result<bool, StoreError> {
        self.write_with(false, move |sql| rejected::purge(sql, before)).await
    }

    // --- figures over time ---

    /// Adds what a node has counted, of at most [`MAX_FLUSHED_ROWS`](super::figures::MAX_FLUSHED_ROWS) at once. `node` is a
    /// number that no other node has, and 0 if there is no other.
    pub async fn add_figures(&self, node: i64, tallied: Arc<[Tallied]>) -> Result<(), StoreError> {
        self.write_with(false, move |sql| figures::add(sql, node, &tallied)).await
    }

    /// Makes a part of the next hour or day that ended before `until`. Returns whether there may be more to make.
    pub async fn roll_figures_up(&self, step: Step, until: UnixMicros) -> Result<bool, StoreError> {
        self.write_with(false, move |sql| figures::roll_up(sql, step, until)).await
    }

    /// Deletes steps from before `before` that no longer step is to be made of, in one small step. Returns whether more may
    /// be left.
    pub async fn purge_figures(&self, step: Step, before: UnixMicros) -> Result<bool, StoreError> {
        self.write_with(false, move |sql| figures::purge(sql, step, before)).await
    }

    /// The figures of a span by step. Steps in which nothing happened are left out.
    pub async fn figures(&self, of: FigureOf, span: Span) -> Result<BTreeMap<UnixMicros, Figure>, StoreError> {
        self.look(move |sql| figures::series(sql, of, span)).await
    }

    /// The first `limit` webhooks of a tenant or, with [`ALL_TENANTS`](super::figures::ALL_TENANTS), of all. Webhooks that have
    /// nothing of what they are ranked by are left out, and so are deleted ones.
    pub async fn ranked_webhooks(
        &self,
        tenant: TenantSeq,
        span: Span,
        by: RankBy,
        limit: u32,
    ) -> Result<Ranking, StoreError> {
        self.look(move |sql| figures::ranking(sql, tenant, span, by, limit)).await
    }

    // --- the audit log ---

    /// Adds a line for a deed that leaves no other trace. Nothing happens on a handle that is not
    /// [`audited`](Store::audited).
    pub async fn record(&self, deed: Deed) -> Result<(), StoreError> {
        self.change(move |sql| audit::record(sql, &deed)).await
    }
}
