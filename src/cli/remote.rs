//! A running server, reached through its REST API.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header, request};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;
use uuid::Uuid;

use super::UsageError;
use super::answer::Answer;
use crate::config::DEFAULT_SERVER;
use crate::delivery::End;
use crate::delivery::client::{Client, ClientOptions};
use crate::delivery::guard::Destination;
use crate::store::MAX_PAGE_ITEMS;

/// Covers the longest attempt of `webhook test`, 60 s, and the server's own work.
const TIMEOUT: Duration = Duration::from_secs(75);
/// The largest answer read.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Which server, and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct Connection {
    /// Talk to the server at this address
    #[arg(long, global = true, value_name = "URL", env = "POSTRIDER_SERVER", hide_env_values = true)]
    #[arg(default_value = DEFAULT_SERVER, help_heading = "General")]
    server: String,
    /// Show the server this access token
    #[arg(long, global = true, value_name = "TOKEN", env = "POSTRIDER_TOKEN", hide_env_values = true)]
    #[arg(help_heading = "General")]
    token: Option<SecretString>,
    /// Act for this tenant, by name or UUID; for operators [default: the token's own]
    #[arg(long = "tenant", global = true, value_name = "TENANT", env = "POSTRIDER_TENANT", hide_env_values = true)]
    #[arg(id = "acting-tenant", help_heading = "General")]
    tenant: Option<String>,
}

/// A server, with a token for it.
pub(super) struct Remote {
    client: Client,
    base: Url,
    token: SecretString,
    /// The tenant to act for; `None`: the token's own.
    tenant: Option<String>,
}

/// A page of a listing, in which numbers keep their digits.
#[derive(Deserialize)]
struct RawPage {
    items: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// The server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refusal {
    text: String,
    /// The answer's body, `problem+json` if it came from Postrider.
    pub problem: Value,
}

/// A client for the server at `base`, which the user has named.
pub(super) fn client_for(base: &Url) -> anyhow::Result<Client> {
    Ok(Client::new(ClientOptions::for_named_server(base))?)
}

/// Why a request has no answer.
pub(super) fn reason_of(end: &End) -> String {
    match end {
        End::Status(status) => format!("http {status}"),
        End::Timeout(reason) => format!("timeout: {reason}"),
        End::Blocked(reason)
        | End::Connect(reason)
        | End::Local(reason)
        | End::Unshaped(reason)
        | End::Tls(reason)
        | End::Dns { detail: reason, .. }
        | End::Protocol(reason)
        | End::Auth(reason)
        | End::Proxy(reason) => reason.clone(),
    }
}

impl Connection {
    /// Whether the user has named a tenant.
    pub(super) fn names_tenant(&self) -> bool {
        self.tenant.as_ref().is_some_and(|tenant| !tenant.is_empty())
    }

    pub(super) fn open(self) -> anyhow::Result<Remote> {
        let Some(token) = self.token.filter(|token| !token.expose_secret().is_empty()) else {
            bail!(UsageError(
                "no access token: set POSTRIDER_TOKEN or give --token.\n\
                 The server prints an admin token at its first start; `postrider token create` makes others."
                    .to_owned()
            ));
        };
        let tenant = self.tenant.filter(|tenant| !tenant.is_empty());
        Ok(Remote { tenant, ..Remote::new(&self.server, token)? })
    }
}

impl Remote {
    pub(super) fn new(server: &str, token: SecretString) -> anyhow::Result<Self> {
        let base = Url::parse(server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                UsageError(format!("{server:?} is no address of a server; it looks like {DEFAULT_SERVER}"))
            })?;
        Ok(Self { client: client_for(&base)?, base, token, tenant: None })
    }

    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, query, None, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, body).await
    }

    pub(super) async fn send(&self, method: Method, path: &[&str], body: &Value) -> anyhow::Result<Answer> {
        self.call(method, path, &[], Some("application/json"), body.to_string().into()).await
    }

    /// Posts unchanged bytes.
    pub(super) async fn post_bytes(&self, path: &[&str], media: &'static str, body: Bytes) -> anyhow::Result<Answer> {
        self.post_bytes_with(path, &[], media, body).await
    }

    /// As [`Self::post_bytes`], with a query.
    pub(super) async fn post_bytes_with(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        media: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, query, Some(media), body).await
    }

    /// Posts unchanged events. With a key, a repeated request is not accepted twice.
    pub(super) async fn post_events(
        &self,
        path: &[&str],
        media: &'static str,
        body: Bytes,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(Method::POST, path, &[], Some(media))?;
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request, body).await
    }

    pub(super) async fn delete(&self, path: &[&str]) -> anyhow::Result<Answer> {
        self.delete_with(path, &[]).await
    }

    pub(super) async fn delete_with(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.call(Method::DELETE, path, query, None, Bytes::new()).await
    }

    /// A page of a listing, skipping empty pages that are not the last.
    pub(super) async fn page(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Answer> {
        let mut query = query.to_vec();
        loop {
            let page = self.get(&[path], &query).await?;
            let is_empty = page.value["items"].as_array().is_some_and(Vec::is_empty);
            match page.value["next_cursor"].as_str() {
                Some(cursor) if is_empty => {
                    query.retain(|(name, _)| *name != "cursor");
                    query.push(("cursor", cursor.to_owned()));
                }
                _ => return Ok(page),
            }
        }
    }

    /// All pages of a listing, as one array.
    pub(super) async fn all(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Answer> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", MAX_PAGE_ITEMS.to_string()));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page: RawPage = serde_json::from_str(&self.get(path, &query).await?.text)?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                let text = serde_json::to_string(&items)?;
                return Ok(Answer { value: serde_json::from_str(&text)?, text });
            }
        }
    }

    /// The UUID of a webhook that a user names by UUID or by name.
    pub(super) async fn webhook(&self, name: &str) -> anyhow::Result<String> {
        if let Ok(uuid) = Uuid::parse_str(name) {
            return Ok(uuid.to_string());
        }
        let webhooks = self.all(&["webhooks"], &[("q", name.to_owned()), ("short", "true".to_owned())]).await?;
        let found = webhooks.value.as_array().into_iter().flatten().find(|webhook| webhook["name"] == name);
        match found.and_then(|webhook| webhook["uuid"].as_str()) {
            Some(uuid) => Ok(uuid.to_owned()),
            None => bail!("there is no webhook {name:?}; `postrider webhook list` shows those there are"),
        }
    }

    /// The UUID of an inlet that a user names by UUID or by name.
    pub(super) async fn inlet(&self, name: &str) -> anyhow::Result<String> {
        if let Ok(uuid) = Uuid::parse_str(name) {
            return Ok(uuid.to_string());
        }
        let inlets = self.all(&["inlets"], &[]).await?;
        let found = inlets.value.as_array().into_iter().flatten().find(|inlet| inlet["name"] == name);
        match found.and_then(|inlet| inlet["uuid"].as_str()) {
            Some(uuid) => Ok(uuid.to_owned()),
            None => bail!("there is no inlet {name:?}; `postrider inlet list` shows those there are"),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        media: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.answer(self.request(method, path, query, media)?, body).await
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        media: Option<&str>,
    ) -> anyhow::Result<request::Builder> {
        let url = self.url(path, query)?;
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose_secret()))
            .header(header::ACCEPT, "application/json");
        if let Some(tenant) = &self.tenant {
            request = request.header("x-postrider-tenant", tenant);
        }
        if let Some(media) = media {
            request = request.header(header::CONTENT_TYPE, media);
        }
        Ok(request)
    }

    async fn answer(&self, request: request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        let wrong = || "the access token, the tenant or the idempotency key has forbidden characters".to_owned();
        let request = request.body(body).map_err(|_| UsageError(wrong()))?;
        let destination = Destination::parse(&request.uri().to_string())?;
        let response = self
            .client
            .request(&destination, request, MAX_ANSWER_BYTES, TIMEOUT)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(self.refusal(head.status, &body).into());
        }
        let strange = || format!("{} did not answer in JSON; is it Postrider?", self.base);
        let text = String::from_utf8(body.into()).with_context(strange)?;
        let value = serde_json::from_str(&text).with_context(strange)?;
        Ok(Answer { text, value })
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(["api", "v1"]).extend(path),
            Err(()) => bail!("{} has no path", self.base),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn unreachable(&self, end: &End) -> anyhow::Error {
        anyhow::anyhow!(
            "cannot reach the server at {}: {}\n\
             Start one with `postrider serve`, or say where it is with --server or POSTRIDER_SERVER.",
            self.base,
            reason_of(end)
        )
    }

    /// A `problem+json` answer (RFC 9457) as text for people, with the next step if it is known.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> Refusal {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let detail = ["detail", "title"].iter().find_map(|field| problem[field].as_str());
        let mut text = match detail {
            Some(detail) => detail.to_owned(),
            None => format!("{} answered {status}", self.base),
        };
        for error in problem["errors"].as_array().into_iter().flatten() {
            let reason = ["detail", "message", "reason"].iter().find_map(|field| error[field].as_str());
            let line = match (error["field"].as_str(), reason) {
                (Some(field), Some(reason)) => format!("{field}: {reason}"),
                _ => super::output::plain(error),
            };
            if line != text {
                text.extend(["\n  ", &line]);
            }
        }
        match status {
            StatusCode::UNPROCESSABLE_ENTITY if text.contains("egress_blocked: port ") => {
                text += "\nIf a receiver of webhooks has that port: a server that runs with --allow-ports lets webhooks reach it.";
            }
            StatusCode::UNPROCESSABLE_ENTITY if text.contains("egress_blocked") => {
                text += "\nIf that is a network of your own: a server that runs with --allow-private CIDR lets webhooks reach it.";
            }
            StatusCode::UNAUTHORIZED => {
                text += "\nThe server does not know this token. Check POSTRIDER_TOKEN or --token, and that --server is the right one.";
            }
            StatusCode::FORBIDDEN => {
                text += "\nThis token may not do that; `postrider token create --scope …` with an admin token makes one that may.";
            }
            _ => {}
        }
        Refusal { text, problem }
    }
}
