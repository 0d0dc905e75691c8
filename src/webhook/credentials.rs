//! Credentials do not follow a webhook to another server. Otherwise an admin, who cannot read them, could have them sent to a
//! server of his own by a change of the URL.

use super::error::WebhookError;
use super::patch::WebhookPatch;
use crate::delivery::access::{RawAuth, split_credentials};
use crate::delivery::guard::Destination;
use crate::delivery::receiver::Webhook;

/// `patch` with the credentials of its URL in `auth`, so that the URL that is stored and shown has none.
pub(super) fn out_of_url(mut patch: WebhookPatch) -> Result<WebhookPatch, WebhookError> {
    // Blanks around a URL come from copying it (and the URL Standard drops them, too).
    patch.url = patch.url.map(|url| url.trim_matches(|c: char| c <= ' ').to_owned());
    let split = patch.url.as_deref().map(split_credentials).transpose().map_err(WebhookError::from)?;
    let Some((url, auth)) = split.flatten() else { return Ok(patch) };
    if matches!(patch.auth, Some(Some(_))) {
        let reason = "has a user name or password before its host, and `auth` is given too; give one of them";
        return Err(WebhookError::Field { field: "url", reason: reason.to_owned() });
    }
    Ok(WebhookPatch { url: Some(url), auth: Some(Some(auth)), ..patch })
}

/// The credentials that `patch` must give again, because it would send the stored ones to another server. With another
/// origin of the URL or another proxy these are the values of headers and `auth`: a proxy sees requests over http and,
/// with a certificate authority of its own, all others. With another token endpoint it is the client secret. A proxy's
/// own password comes with its URL. The sign that stands for a secret gives nothing.
pub(super) fn needed_again(old: &Webhook, new: &Webhook, patch: &WebhookPatch) -> Vec<WebhookError> {
    let moved = |old: Option<&Destination>, new: Option<&Destination>| {
        new.is_some_and(|new| old.is_none_or(|old| !old.same_origin(new)))
    };
    let why = if moved(Some(&old.destination), Some(&new.destination)) {
        Some("the URL leads to another server")
    } else if moved(old.access.proxy_address(), new.access.proxy_address()) {
        Some("the proxy is another")
    } else {
        None
    };
    let mut needed = Vec::new();
    let mut ask = |field, what: &str, why: &str| {
        needed.push(WebhookError::Field { field, reason: format!("must be given again, {what}, since {why}") });
    };
    let kept = old.access.raw();
    if let Some(why) = why {
        let names: Vec<&str> = match &patch.headers {
            None => kept.headers.keys().map(String::as_str).collect(),
            Some(headers) => {
                headers.iter().filter(|(_, value)| value.is_placeholder()).map(|(name, _)| &**name).collect()
            }
        };
        if !names.is_empty() {
            ask("headers", &format!("with the values of {}", names.join(", ")), why);
        }
    }
    let is_auth_kept = match &patch.auth {
        None => kept.auth.is_some(),
        Some(auth) => auth.as_ref().is_some_and(RawAuth::is_masked),
    };
    let endpoint_moved =
        old.access.token_endpoint().is_some() && moved(old.access.token_endpoint(), new.access.token_endpoint());
    if let Some(why) = why.or(endpoint_moved.then_some("the token endpoint is another")).filter(|_| is_auth_kept) {
        ask("auth", "with its secret", why);
    }
    needed
}

#[cfg(test)]
mod tests {
    use crate::webhook::{WebhookPatch, WebhookSettings};

    fn patch(json: &str) -> WebhookPatch {
        serde_json::from_str(json).unwrap()
    }

    /// The fields that must be given again when `change` is made to a webhook with every kind of credential.
    fn needed(base: &str, change: &str) -> Vec<String> {
        let create = patch(r#"{"name": "w", "url": "https://a.example/hook?k=1", "topic_patterns": [">"]}"#);
        let old = WebhookSettings::create(create).unwrap().patched(&patch(base)).unwrap();
        match old.patched(&patch(change)) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(|error| format!("{}: {error}", error.field())).collect(),
        }
    }

    const BEARER: &str = r#"{"headers": {"X-Key": "k", "X-Team": "t"}, "auth": {"type": "bearer", "token": "t"}}"#;
    const HEADERS: &str = "headers: must be given again, with the values of X-Key, X-Team, since ";
    const AUTH: &str = "auth: must be given again, with its secret, since ";

    #[test]
    fn credentials_do_not_follow_to_another_server() {
        let elsewhere = [
            r#"{"url": "https://evil.example/hook?k=1"}"#,
            r#"{"url": "http://a.example/hook?k=1"}"#,
            r#"{"url": "https://a.example:8443/hook"}"#,
        ];
        for change in elsewhere {
            let why = "the URL leads to another server";
            assert_eq!(needed(BEARER, change), [format!("{HEADERS}{why}"), format!("{AUTH}{why}")], "{change}");
        }
        let masked = r#"{"url": "https://b.example/", "headers": {"X-Key": "…", "X-Team": "new"}, "auth": {"type": "bearer", "token": "…"}}"#;
        let errors = needed(BEARER, masked);
        assert!(errors[0].starts_with("headers: must be given again, with the values of X-Key, since"), "{errors:?}");
        assert!(errors.len() == 2 && errors[1].starts_with(AUTH), "{errors:?}");
        for change in [
            r#"{"url": "https://a.example/other?k=2"}"#,
            r#"{"url": "https://A.example:443/"}"#,
            r#"{"headers": {"x-key": "…"}, "auth": {"type": "bearer", "token": "…"}}"#,
            r#"{"url": "https://b.example/", "headers": {"X-Key": "new"}, "auth": {"type": "bearer", "token": "new"}}"#,
            r#"{"url": "https://b.example/", "headers": {}, "auth": null}"#,
        ] {
            assert!(needed(BEARER, change).is_empty(), "{change}: {:?}", needed(BEARER, change));
        }
        assert!(needed("{}", elsewhere[0]).is_empty(), "where there are none, none are asked for");
    }

    #[test]
    fn credentials_in_a_url_become_basic_ones() {
        use crate::delivery::access::RawAuth;
        let create = |fields: &str| {
            WebhookSettings::create(patch(&format!(r#"{{"name": "w", "topic_patterns": [">"], {fields}}}"#)))
        };
        let made = create(r#""url": "https://me:p%40ss@a.example/hook?k=1""#).unwrap();
        assert_eq!(made.receiver.destination.as_str(), "https://a.example/hook?k=1");
        let basic =
            |username: &str, password: &str| RawAuth::Basic { username: username.into(), password: password.into() };
        assert_eq!(made.receiver.access.raw().auth, Some(basic("me", "p@ss")));
        // With them, a webhook may be led to another server.
        let moved = made.patched(&patch(r#"{"url": "https://you:new@b.example/"}"#)).unwrap();
        assert_eq!(moved.receiver.destination.as_str(), "https://b.example/");
        assert_eq!(moved.receiver.access.raw().auth, Some(basic("you", "new")));
        let kept = made.patched(&patch(r#"{"url": "https://a.example/other"}"#)).unwrap();
        assert_eq!(kept.receiver.access.raw().auth, Some(basic("me", "p@ss")));
        for (fields, expected) in [
            (
                r#""url": "https://me:geheim@a.example/", "auth": {"type": "bearer", "token": "t"}"#,
                "url: has a user name",
            ),
            (r#""url": "https://a:geheim@b@a.example/""#, "url: has more than one @"),
            (r#""url": "https://:@a.example/""#, "auth: username and password are empty"),
            (r#""url": "https://me:…@a.example/""#, "auth: password is the sign"),
        ] {
            let errors = create(fields).unwrap_err();
            let text = format!("{}: {}", errors[0].field(), errors[0]);
            assert!(errors.len() == 1 && text.starts_with(expected) && !text.contains("geheim"), "{errors:?}");
        }
    }

    #[test]
    fn credentials_do_not_follow_through_another_proxy() {
        let base = BEARER.replacen('{', r#"{"proxy": {"url": "http://me:pw@p.example:1"}, "#, 1);
        let why = "the proxy is another";
        for (base, change) in [
            (&*base, r#"{"proxy": {"url": "http://me:new@q.example:1"}}"#),
            (BEARER, r#"{"proxy": {"url": "socks5://q.example:1"}}"#),
        ] {
            assert_eq!(needed(base, change), [format!("{HEADERS}{why}"), format!("{AUTH}{why}")], "{change}");
        }
        let errors = needed(&base, r#"{"proxy": {"url": "http://me:…@q.example:1"}, "headers": {}, "auth": null}"#);
        assert!(errors[0].contains("give the password itself"), "{errors:?}");
        for change in [
            r#"{"proxy": null}"#,
            r#"{"proxy": {"url": "http://me:…@p.example:1", "resolve": "here"}}"#,
            r#"{"proxy": {"url": "http://me:new@p.example:1"}}"#,
        ] {
            assert!(needed(&base, change).is_empty(), "{change}: {:?}", needed(&base, change));
        }
    }

    #[test]
    fn no_signature_has_the_header_of_a_token() {
        let json = r#"{"name": "w", "url": "https://a.example/", "topic_patterns": [">"], "signatures": ["stripe"],
            "auth": {"type": "login", "url": "https://a.example/login", "header": "stripe-signature"}}"#;
        let errors = WebhookSettings::create(patch(json)).unwrap_err();
        assert!(errors[0].to_string().contains("is set by `headers` or `auth`, too"), "{}", errors[0]);
    }

    #[test]
    fn a_client_secret_does_not_follow_to_another_token_endpoint() {
        let auth = |url: &str, secret: &str| {
            format!(
                r#"{{"auth": {{"type": "oauth2", "token_url": "{url}", "client_id": "i", "client_secret": "{secret}"}}}}"#
            )
        };
        let base = auth("https://id.example/token", "s");
        let errors = needed(&base, &auth("https://evil.example/token", "…"));
        assert_eq!(errors, [format!("{AUTH}the token endpoint is another")]);
        assert!(needed(&base, &auth("https://evil.example/token", "new")).is_empty());
        assert!(needed(&base, &auth("https://id.example/other", "…")).is_empty());
    }
}
