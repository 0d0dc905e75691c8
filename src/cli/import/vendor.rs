//! The API of another sender, read page by page within bounds, or what of it was written into a file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use crate::cli::UsageError;
use crate::cli::remote::{client_for, reason_of};
use crate::delivery::client::Client;
use crate::delivery::guard::Destination;
use crate::engine::import::MAX_IMPORTED_WEBHOOKS;

/// The largest answer of such an API, and the largest file of answers.
const MAX_VENDOR_BYTES: usize = 64 * 1024 * 1024;
/// The most bytes of all answers together.
const MAX_VENDOR_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// The most pages of one listing.
const MAX_VENDOR_PAGES: usize = 1_000;
/// The most requests of an import: a page and three details of each webhook.
const MAX_VENDOR_REQUESTS: u32 = 50_000;
/// The timeout of one request.
const VENDOR_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a request is repeated that comes too soon, and the longest pause before that.
const MAX_VENDOR_TRIES: u32 = 5;
const MAX_VENDOR_PAUSE: Duration = Duration::from_secs(30);
/// The largest token.
const MAX_TOKEN_FILE_BYTES: u64 = 16 * 1024;

/// Where the webhooks of a vendor are.
#[derive(Debug, clap::Args)]
pub(super) struct Origin {
    /// Ask its API at this address; without a path `/api/v1` is added
    #[arg(long, value_name = "URL", required_unless_present = "export", conflicts_with = "export")]
    url: Option<String>,
    /// Show its API the token in this file
    #[arg(long, value_name = "FILE", requires = "url", required_unless_present = "export")]
    token_file: Option<PathBuf>,
    /// Read this file of its API's answers instead (docs/import.md)
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Take these alone: applications of Svix, projects of Convoy, tenants of Outpost, organizations of Hook0 (repeatable)
    #[arg(long, value_name = "ID")]
    pub(super) from: Vec<String>,
    /// Sign by this profile, where the sender is set up otherwise than usual
    #[arg(long, value_name = "NAME")]
    pub(super) signature: Option<String>,
}

impl Origin {
    /// What its API answers, by `fetch`, or the document of a file, if one is given.
    pub(super) async fn document(
        &self,
        fetch: impl AsyncFnOnce(&Api, &[String]) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Value> {
        match self.exported()? {
            Some(document) => Ok(document),
            None => Box::pin(fetch(&self.api()?, &self.from)).await,
        }
    }

    fn exported(&self) -> anyhow::Result<Option<Value>> {
        let Some(path) = &self.export else { return Ok(None) };
        let what = || format!("cannot read {}", path.display());
        let mut text = Zeroizing::new(String::new());
        let limit = MAX_VENDOR_BYTES as u64 + 1;
        File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)).with_context(what)?;
        if text.len() > MAX_VENDOR_BYTES {
            bail!("{} has more than {MAX_VENDOR_BYTES} bytes", path.display());
        }
        serde_json::from_str(&text).with_context(what).map(Some)
    }

    fn api(&self) -> anyhow::Result<Api> {
        let (Some(url), Some(token_file)) = (&self.url, &self.token_file) else {
            bail!(UsageError("give --url and --token-file, or --export".to_owned()));
        };
        let usage = || UsageError(format!("--url: {url:?} is no address of an API"));
        let mut base = Url::parse(url).ok().filter(Url::has_host).ok_or_else(usage)?;
        if base.path() == "/" {
            base.set_path("/api/v1");
        }
        Ok(Api {
            client: client_for(&base)?,
            base,
            token: token(token_file)?,
            requests: AtomicU32::new(0),
            bytes: AtomicUsize::new(0),
        })
    }
}

fn token(path: &Path) -> anyhow::Result<SecretString> {
    let what = || format!("--token-file: cannot read {}", path.display());
    let mut text = Zeroizing::new(String::new());
    File::open(path).and_then(|file| file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text)).with_context(what)?;
    Ok(text.trim().to_owned().into())
}

/// A vendor's API.
pub(super) struct Api {
    client: Client,
    base: Url,
    token: SecretString,
    requests: AtomicU32,
    /// Of all answers.
    bytes: AtomicUsize,
}

impl Api {
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        Ok(self.page(path, query).await?.0)
    }

    /// A page, and the cursor of the next one if the answer names it in a header `Link`.
    async fn page(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<(Value, Option<String>)> {
        let found = self.answer(path, query).await?;
        found.with_context(|| format!("{} has no {}", self.base, path.join("/")))
    }

    /// `None`: it is not there.
    pub(super) async fn find(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        Ok(self.answer(path, &[]).await?.map(|(value, _)| value))
    }

    async fn answer(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Option<(Value, Option<String>)>> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => drop(segments.pop_if_empty().extend(path)),
            Err(()) => bail!("{} has no path", self.base),
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        for number in 1.. {
            let answer = self.ask(&url).await?;
            match answer.status() {
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if number < MAX_VENDOR_TRIES => {
                    tokio::time::sleep(pause(answer.headers())).await;
                }
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    bail!("{} does not let the token of --token-file in ({status})", self.base);
                }
                status if !status.is_success() => bail!("{} answered {status} to {}", self.base, path.join("/")),
                _ => {
                    let bytes = self.bytes.fetch_add(answer.body().len(), Ordering::Relaxed) + answer.body().len();
                    if bytes > MAX_VENDOR_TOTAL_BYTES {
                        bail!("{} has answered more than {MAX_VENDOR_TOTAL_BYTES} bytes, and there is more", self.base);
                    }
                    let strange = || format!("{} did not answer in JSON; is it the address of its API?", self.base);
                    let value = serde_json::from_slice(answer.body()).with_context(strange)?;
                    return Ok(Some((value, cursor_of_link(&self.base, answer.headers()))));
                }
            }
        }
        Ok(None)
    }

    async fn ask(&self, url: &Url) -> anyhow::Result<Response<Bytes>> {
        if self.requests.fetch_add(1, Ordering::Relaxed) >= MAX_VENDOR_REQUESTS {
            bail!("{} was asked {MAX_VENDOR_REQUESTS} times, and there is more", self.base);
        }
        let request = Request::get(url.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose_secret()))
            .header(header::ACCEPT, "application/json")
            .body(Bytes::new())
            .map_err(|_| UsageError("the token of --token-file has forbidden characters".to_owned()))?;
        let destination = Destination::parse(url.as_str())?;
        let answer = self.client.request(&destination, request, MAX_VENDOR_BYTES, VENDOR_TIMEOUT).await;
        answer.map_err(|end| anyhow::anyhow!("cannot reach {}: {}", self.base, reason_of(&end)))
    }

    /// All items of a listing. `items` says where they are in a page, `next` the parameter of the page after it, of
    /// the page itself or of the cursor that came beside it.
    pub(super) async fn all(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        items: &str,
        next: impl Fn(&Value, Option<String>) -> Option<(&'static str, String)>,
    ) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor: Option<(&str, String)> = None;
        for _ in 0..MAX_VENDOR_PAGES {
            let query: Vec<_> = query.iter().cloned().chain(cursor.clone()).collect();
            let (mut page, beside) = self.page(path, &query).await?;
            let after = next(&page, beside);
            match page.pointer_mut(items).map(Value::take) {
                Some(Value::Array(items)) => all.extend(items),
                Some(Value::Null) if after.is_none() => return Ok(all),
                _ => bail!("{} answered {} in another form than was expected", self.base, path.join("/")),
            }
            if all.len() > MAX_IMPORTED_WEBHOOKS {
                bail!("{} has more than {MAX_IMPORTED_WEBHOOKS} {}", self.base, path.join("/"));
            }
            if after.is_none() {
                return Ok(all);
            }
            if after == cursor {
                bail!("{} gives the same page of {} again and again", self.base, path.join("/"));
            }
            cursor = after;
        }
        bail!("{} has more than {MAX_VENDOR_PAGES} pages of {}", self.base, path.join("/"))
    }
}

/// How long a server asks to wait.
fn pause(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).min(MAX_VENDOR_PAUSE)
}

/// The `pagination_cursor` of the link to the next page (RFC 8288), as Hook0 has it. Nothing else of the link is followed.
fn cursor_of_link(base: &Url, headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|links| links.split(',')).find(|link| link.contains("rel=\"next\""))?;
    let target = base.join(next.split_once('<')?.1.split_once('>')?.0).ok()?;
    target.query_pairs().find(|(name, _)| name == "pagination_cursor").map(|(_, cursor)| cursor.into_owned())
}

/// The items of a document's list.
pub(super) fn list<'a>(document: &'a Value, field: &str) -> anyhow::Result<&'a [Value]> {
    match &document[field] {
        Value::Array(items) => Ok(items),
        Value::Null => bail!("the document has no {field:?}"),
        _ => bail!("{field:?} of the document is no list"),
    }
}
