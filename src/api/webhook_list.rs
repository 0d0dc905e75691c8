//! `GET /webhooks`: all of them, in pages, or by name.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Viewer;
use super::input::{FIRST_OF_A_LIST, Params};
use super::problem::Problem;
use super::views::{ListOrPage, Time};
use super::waiting::{WaitingFor, Waits, backlogs};
use super::webhooks::Webhook;
use crate::store::{DEFAULT_PAGE_ITEMS, Page};

/// List the webhooks
///
/// Oldest first: a page if `limit`, `cursor` or `q` is given, otherwise a bare array of at most 500. With `short` each has what
/// a table shows.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", params(
    ("q" = Option<String>, Query, description = "A text that occurs in the name, letters of ASCII in either case."),
    ("short" = Option<bool>, Query, description = "Name, URL and state alone; without a value it is `true`."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default, if a page is asked for."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = ListOrPage<ListedWebhook>),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Viewer { tenant, sees_urls, .. }: Viewer,
    mut params: Params,
) -> Result<Json<ListOrPage<ListedWebhook>>, Problem> {
    let is_short = params.flag("short");
    let is_searched = params.has("q");
    let (q, page) = (params.text("q"), params.page_or_list());
    params.finish()?;
    let is_page = is_searched || page.is_some();
    let first = if is_searched { Page { limit: DEFAULT_PAGE_ITEMS, cursor: None } } else { FIRST_OF_A_LIST };
    let page = app.engine.store().webhook_page(tenant, q.as_deref(), page.unwrap_or(first)).await?;
    let now = app.engine.now();
    let mut owed = backlogs(&app.engine, &page.items).await?.into_iter();
    Ok(Json(ListOrPage::new(is_page, page, |record| {
        let waits = Waits::of(&record, now).with_backlog(&owed.next().unwrap_or_default());
        let webhook = Webhook::shown(&record, now, sees_urls).waiting(waits);
        if is_short { ListedWebhook::Short(webhook.into()) } else { ListedWebhook::Whole(Box::new(webhook)) }
    })))
}

/// A webhook of a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ListedWebhook {
    Whole(Box<Webhook>),
    Short(ShortWebhook),
}

/// What a table shows of a webhook.
#[derive(Serialize, ToSchema)]
pub(super) struct ShortWebhook {
    uuid: Uuid,
    name: String,
    /// Path and query are shown to admins alone.
    url: String,
    topic_patterns: Vec<String>,
    enabled: bool,
    paused: bool,
    #[schema(required)]
    disabled_reason: Option<String>,
    consecutive_failures: u32,
    #[schema(required)]
    last_error: Option<String>,
    #[schema(required)]
    auto_disabled_at: Option<Time>,
    #[schema(required)]
    waiting_for: Option<WaitingFor>,
    #[schema(required)]
    waiting_until: Option<Time>,
    waiting: u32,
    #[schema(required)]
    waiting_since: Option<Time>,
}

impl From<Webhook> for ShortWebhook {
    fn from(webhook: Webhook) -> Self {
        Self {
            uuid: webhook.uuid,
            name: webhook.name,
            url: webhook.url,
            topic_patterns: webhook.topic_patterns,
            enabled: webhook.enabled,
            paused: webhook.paused,
            disabled_reason: webhook.disabled_reason,
            consecutive_failures: webhook.consecutive_failures,
            last_error: webhook.last_error,
            auto_disabled_at: webhook.auto_disabled_at,
            waiting_for: webhook.waiting_for,
            waiting_until: webhook.waiting_until,
            waiting: webhook.waiting,
            waiting_since: webhook.waiting_since,
        }
    }
}
