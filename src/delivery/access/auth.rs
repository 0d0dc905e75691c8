//! Credentials for a receiver: HTTP basic, a bearer token, or one that is fetched, by `OAuth2` or by a login.

use std::time::Duration;

use http::HeaderValue;

use super::assertion::AssertionKey;
use super::credential::{MAX_TOKEN_BYTES, basic, bearer};
use super::login::{LOGIN_LIFETIME_S, Login, LoginMethod, MAX_LOGIN_BODY_BYTES, basic_of, parse_header, parse_pointer};
#[cfg(feature = "server")]
use super::oauth2::DEFAULT_TOKEN_LIFETIME;
use super::oauth2::{ClientCredentials, ClientProof};
use super::tokens::{TokenRequest, TokenSource};
use super::{AccessError, SHOWN_SECRET, SecretText};
use crate::delivery::guard::Destination;
use crate::event::object_members;

/// The longest user name or client id, in bytes.
pub const MAX_USERNAME_BYTES: usize = 256;
/// The longest password, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1_024;
/// The longest `OAuth2` client secret, in bytes.
pub const MAX_CLIENT_SECRET_BYTES: usize = 4_096;
/// The most `OAuth2` scopes.
pub const MAX_SCOPES: usize = 64;
/// The longest `OAuth2` scope, audience or resource, in bytes.
const MAX_SCOPE_BYTES: usize = 512;

/// How Postrider shows a receiver who it is, as a user says it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(tag = "type", rename_all = "lowercase", deny_unknown_fields),
    schema(as = Auth)
)]
pub enum RawAuth {
    /// RFC 7617, in UTF-8. One of the two may be empty.
    Basic {
        username: String,
        /// Not shown again: `…`, which is shown instead, is the one of before.
        #[cfg_attr(feature = "server", schema(value_type = String))]
        password: SecretText,
    },
    /// RFC 6750, a token that does not change.
    Bearer {
        /// Not shown again: `…`, which is shown instead, is the one of before.
        #[cfg_attr(feature = "server", schema(value_type = String))]
        token: SecretText,
    },
    /// RFC 6749, section 4.4: client credentials. The token is fetched when it is needed and kept until shortly
    /// before it expires.
    OAuth2 {
        token_url: String,
        client_id: String,
        /// With `private_key_jwt` there is none. Not shown again: `…`, which is shown instead, is the one of before.
        #[cfg_attr(
            feature = "server",
            serde(default, skip_serializing_if = "Option::is_none"),
            schema(value_type = Option<String>)
        )]
        client_secret: Option<SecretText>,
        #[cfg_attr(feature = "server", serde(default))]
        scopes: Vec<String>,
        /// A parameter that some servers ask for (Auth0, Okta).
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        audience: Option<String>,
        /// The parameter of RFC 8707: for which server the token is meant (Entra ID v1, AD FS).
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        resource: Option<String>,
        #[cfg_attr(feature = "server", serde(default))]
        auth_style: AuthStyle,
        /// With `private_key_jwt`: PEM, not encrypted; RSA of 2,048 bits or more, P-256 or Ed25519. Not shown again: `…`, which is
        /// shown instead, is the one of before.
        #[cfg_attr(
            feature = "server",
            serde(default, skip_serializing_if = "Option::is_none"),
            schema(value_type = Option<String>)
        )]
        private_key: Option<SecretText>,
        /// With `private_key_jwt`: the name of the key at the server (`kid`).
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        key_id: Option<String>,
    },
    /// A token by a request of one's own, for APIs that know no `OAuth2`. It is fetched when it is needed and kept until shortly
    /// before its end.
    Login {
        url: String,
        #[cfg_attr(feature = "server", serde(default))]
        method: LoginMethod,
        /// HTTP basic credentials of the login.
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        username: Option<String>,
        /// Not shown again: `…`, which is shown instead, is the one of before.
        #[cfg_attr(
            feature = "server",
            serde(default, skip_serializing_if = "Option::is_none"),
            schema(value_type = Option<String>)
        )]
        password: Option<SecretText>,
        /// A JSON object that is posted, as in `{"user": "me", "password": "…"}`, itself or as a text. Not shown again: `…`, which is shown
        /// instead, is the one of before.
        #[cfg_attr(
            feature = "server",
            serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object_or_text"),
            schema(value_type = Option<serde_json::Value>)
        )]
        body: Option<SecretText>,
        /// A JSON pointer to the token in the answer, as in `/data/token`. Without one the answer is the token.
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        token: Option<String>,
        /// How long a token may be used, in seconds; 300 by default.
        #[cfg_attr(feature = "server", serde(default = "default_lifetime_s"), schema(minimum = 1, maximum = 86_400))]
        lifetime_s: u32,
        /// The header that carries the token as it is. By default `Authorization: Bearer …` does.
        #[cfg_attr(feature = "server", serde(default, skip_serializing_if = "Option::is_none"))]
        header: Option<String>,
    },
}

#[cfg(feature = "server")]
fn default_lifetime_s() -> u32 {
    crate::fit::fit(DEFAULT_TOKEN_LIFETIME.as_secs(), u32::MAX)
}

#[cfg(feature = "server")]
fn object_or_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SecretText>, D::Error> {
    use serde::Deserialize as _;
    Ok(match Option::deserialize(deserializer)? {
        None => None,
        Some(serde_json::Value::String(text)) => Some(text.into()),
        Some(other) => Some(other.to_string().into()),
    })
}

/// How the client id and its secret reach the token endpoint (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
pub enum AuthStyle {
    /// As HTTP basic credentials, which every server must understand.
    #[default]
    Basic,
    /// In the form that is posted.
    Body,
    /// The client signs an assertion (RFC 7523) in the place of a secret.
    #[cfg_attr(feature = "server", serde(rename = "private_key_jwt"))]
    PrivateKeyJwt,
}

/// A checked `auth`.
pub(super) enum Auth {
    /// The value of `Authorization`.
    Fixed(HeaderValue),
    Fetched(Box<TokenSource>),
}

fn wrong(reason: impl std::fmt::Display) -> AccessError {
    AccessError::new("auth", reason)
}

/// `name` is the field's; the error does not show the text.
fn check_text(name: &str, text: &str, most: usize, allows: fn(char) -> bool, allowed: &str) -> Result<(), AccessError> {
    if text.is_empty() {
        return Err(wrong(format_args!("{name} has 0 bytes, must have 1 to {most}")));
    }
    check_text_or_none(name, text, most, allows, allowed)
}

/// As [`check_text`], of a text that may be empty.
fn check_text_or_none(
    name: &str,
    text: &str,
    most: usize,
    allows: fn(char) -> bool,
    allowed: &str,
) -> Result<(), AccessError> {
    if text.len() > most {
        return Err(wrong(format_args!("{name} has {} bytes, must have at most {most}", text.len())));
    }
    match text.char_indices().find(|(_, c)| !allows(*c)) {
        Some((at, _)) => Err(wrong(format_args!("{name} has a character at byte {at} that is not {allowed}"))),
        None => Ok(()),
    }
}

fn check_secret(
    name: &str,
    secret: &SecretText,
    most: usize,
    allows: fn(char) -> bool,
    allowed: &str,
) -> Result<(), AccessError> {
    check_is_secret(name, secret)?;
    check_text(name, secret.expose(), most, allows, allowed)
}

fn check_is_secret(name: &str, secret: &SecretText) -> Result<(), AccessError> {
    if secret.is_placeholder() {
        return Err(wrong(format_args!("{name} is the sign that stands for a secret; give the secret itself")));
    }
    Ok(())
}

/// The characters that RFC 6749 (appendix A) allows in ids and secrets, and that RFC 7617 allows.
fn is_printable(c: char) -> bool {
    !c.is_control()
}

fn is_visible(c: char) -> bool {
    c.is_ascii_graphic()
}

impl RawAuth {
    pub(super) fn shown(&self) -> Self {
        let mut shown = self.clone();
        shown.secrets_mut().into_iter().flatten().for_each(|secret| *secret = SecretText::placeholder());
        shown
    }

    /// The form for callers that may not see paths of URLs: only the origin of the token endpoint is shown.
    #[must_use]
    pub fn without_path(mut self) -> Self {
        if let Some(url) = self.endpoint_mut() {
            *url = Destination::parse(url).map_or_else(|_| SHOWN_SECRET.to_owned(), |url| url.masked());
        }
        self
    }

    pub(super) fn check(&self) -> Result<Auth, AccessError> {
        match self {
            Self::Basic { username, password } => {
                if username.is_empty() && password.expose().is_empty() {
                    return Err(wrong("username and password are empty"));
                }
                let allows = |c: char| is_printable(c) && c != ':';
                check_text_or_none("username", username, MAX_USERNAME_BYTES, allows, "printable, or is a colon")?;
                check_is_secret("password", password)?;
                check_text_or_none("password", password.expose(), MAX_PASSWORD_BYTES, is_printable, "printable")?;
                basic(username, password.expose()).map(Auth::Fixed).ok_or_else(|| wrong("cannot be sent"))
            }
            Self::Bearer { token } => {
                check_secret("token", token, MAX_TOKEN_BYTES, is_visible, "visible ASCII")?;
                bearer(token.expose()).map(Auth::Fixed).ok_or_else(|| wrong("token cannot be sent"))
            }
            Self::OAuth2 { .. } => self.check_oauth2(),
            Self::Login { .. } => self.check_login(),
        }
    }

    fn check_oauth2(&self) -> Result<Auth, AccessError> {
        let Self::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scopes,
            audience,
            resource,
            auth_style,
            private_key,
            key_id,
        } = self
        else {
            return Err(wrong("is of another type"));
        };
        let endpoint = endpoint("token_url", token_url)?;
        check_text("client_id", client_id, MAX_USERNAME_BYTES, is_printable, "printable")?;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !scopes.is_empty() {
            check_scopes(scopes)?;
            form.append_pair("scope", &scopes.join(" "));
        }
        for (name, value) in [("audience", audience), ("resource", resource)] {
            if let Some(value) = value {
                check_text(name, value, MAX_SCOPE_BYTES, is_printable, "printable")?;
                form.append_pair(name, value);
            }
        }
        let secret = || {
            if private_key.is_some() || key_id.is_some() {
                return Err(wrong("private_key and key_id go with the auth_style private_key_jwt"));
            }
            let secret = client_secret.as_ref().ok_or_else(|| wrong("client_secret is missing"))?;
            check_secret("client_secret", secret, MAX_CLIENT_SECRET_BYTES, is_printable, "printable")?;
            Ok(secret.expose())
        };
        let client = match auth_style {
            // The specification wants both form-encoded before they become basic credentials.
            AuthStyle::Basic => ClientProof::Basic(basic(&encoded(client_id), &encoded(secret()?))),
            AuthStyle::Body => {
                form.append_pair("client_id", client_id).append_pair("client_secret", secret()?);
                ClientProof::Form
            }
            AuthStyle::PrivateKeyJwt => {
                if client_secret.is_some() {
                    return Err(wrong("client_secret does not go with the auth_style private_key_jwt"));
                }
                if let Some(key_id) = key_id {
                    check_text("key_id", key_id, MAX_USERNAME_BYTES, is_printable, "printable")?;
                }
                let key = private_key.as_ref().ok_or_else(|| wrong("private_key is missing"))?;
                let key = AssertionKey::parse(key, key_id.as_deref())
                    .map_err(|reason| wrong(format_args!("private_key {reason}")))?;
                form.append_pair("client_id", client_id);
                ClientProof::Assertion { client_id: client_id.clone(), audience: endpoint.as_str().to_owned(), key }
            }
        };
        let request = TokenRequest::OAuth2(ClientCredentials { form: form.finish(), client });
        Ok(Auth::Fetched(Box::new(TokenSource::new(endpoint, request))))
    }

    fn check_login(&self) -> Result<Auth, AccessError> {
        let Self::Login { url, method, username, password, body, token, lifetime_s, header } = self else {
            return Err(wrong("is of another type"));
        };
        let endpoint = endpoint("url", url)?;
        if let Some(username) = username {
            let allows = |c: char| is_printable(c) && c != ':';
            check_text_or_none("username", username, MAX_USERNAME_BYTES, allows, "printable, or is a colon")?;
        }
        if let Some(password) = password {
            check_is_secret("password", password)?;
            check_text_or_none("password", password.expose(), MAX_PASSWORD_BYTES, is_printable, "printable")?;
        }
        if let Some(body) = body {
            check_is_secret("body", body)?;
            if body.expose().len() > MAX_LOGIN_BODY_BYTES {
                let length = body.expose().len();
                return Err(wrong(format_args!("body has {length} bytes, the limit is {MAX_LOGIN_BODY_BYTES}")));
            }
            object_members(body.expose().as_bytes()).map_err(|_| wrong("body is no JSON object"))?;
            if *method == LoginMethod::Get {
                return Err(wrong("body does not go with the method GET"));
            }
        }
        if !LOGIN_LIFETIME_S.contains(lifetime_s) {
            let (start, end) = (LOGIN_LIFETIME_S.start(), LOGIN_LIFETIME_S.end());
            return Err(wrong(format_args!("lifetime_s is {lifetime_s}, must be {start} to {end}")));
        }
        let login = Login {
            method: *method,
            basic: basic_of(username.as_deref(), password.as_ref()),
            body: body.clone(),
            pointer: token.as_deref().map(parse_pointer).transpose()?,
            lifetime: Duration::from_secs((*lifetime_s).into()),
            header: header.as_deref().map(parse_header).transpose()?.flatten(),
        };
        Ok(Auth::Fetched(Box::new(TokenSource::new(endpoint, TokenRequest::Login(login)))))
    }
}

fn endpoint(field: &str, url: &str) -> Result<Destination, AccessError> {
    if url.ends_with(SHOWN_SECRET) {
        return Err(wrong(format_args!("{field} has the sign that stands for its path; give the URL itself")));
    }
    Destination::parse(url).map_err(|error| wrong(format_args!("{field}: {error}")))
}

fn check_scopes(scopes: &[String]) -> Result<(), AccessError> {
    if scopes.len() > MAX_SCOPES {
        return Err(wrong(format_args!("has {} scopes, the limit is {MAX_SCOPES}", scopes.len())));
    }
    // RFC 6749, section 3.3.
    let allows = |c: char| is_visible(c) && c != '"' && c != '\\';
    let allowed = "visible ASCII, or is a quote or backslash";
    scopes.iter().try_for_each(|scope| check_text("a scope", scope, MAX_SCOPE_BYTES, allows, allowed))
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oauth2(token_url: &str, client_id: &str, scopes: &[&str], audience: Option<&str>) -> RawAuth {
        RawAuth::OAuth2 {
            token_url: token_url.to_owned(),
            client_id: client_id.to_owned(),
            client_secret: Some("geheim".into()),
            private_key: None,
            key_id: None,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            audience: audience.map(str::to_owned),
            resource: None,
            auth_style: AuthStyle::Basic,
        }
    }

    fn fixed(auth: &RawAuth) -> String {
        match auth.check().unwrap() {
            Auth::Fixed(value) => value.to_str().unwrap().to_owned(),
            Auth::Fetched(_) => panic!("is fetched"),
        }
    }

    #[test]
    fn credentials_are_written_as_their_specifications_say() {
        // RFC 7617, sections 2 and 2.1.
        let basic = RawAuth::Basic { username: "Aladdin".to_owned(), password: "open sesame".into() };
        assert_eq!(fixed(&basic), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let utf8 = RawAuth::Basic { username: "test".to_owned(), password: "123£".into() };
        assert_eq!(fixed(&utf8), "Basic dGVzdDoxMjPCow==");
        // `token:` and `:pat`: services that take a token in the place of one of the two.
        let without_password = RawAuth::Basic { username: "token".to_owned(), password: "".into() };
        assert_eq!(fixed(&without_password), "Basic dG9rZW46");
        let without_name = RawAuth::Basic { username: String::new(), password: "pat".into() };
        assert_eq!(fixed(&without_name), "Basic OnBhdA==");
        assert_eq!(fixed(&RawAuth::Bearer { token: "mF_9.B5f-4.1JqM".into() }), "Bearer mF_9.B5f-4.1JqM");
    }

    #[test]
    fn what_is_no_credential_is_refused_and_not_repeated() {
        let refused = [
            RawAuth::Basic { username: "a:b".to_owned(), password: "geheim".into() },
            RawAuth::Basic { username: String::new(), password: "".into() },
            RawAuth::Basic { username: "a".to_owned(), password: "…".into() },
            RawAuth::Basic { username: "a".to_owned(), password: "geheim\n".into() },
            RawAuth::Basic { username: "a".to_owned(), password: "geheim".repeat(MAX_PASSWORD_BYTES).into() },
            RawAuth::Bearer { token: "geheim x".into() },
            RawAuth::Bearer { token: "geheim\r\nx:".into() },
            RawAuth::Bearer { token: "".into() },
            RawAuth::Bearer { token: "…".into() },
            RawAuth::Bearer { token: "x".repeat(MAX_TOKEN_BYTES + 1).into() },
        ];
        for auth in refused {
            let Err(error) = auth.check() else { panic!("{auth:?}") };
            assert!(error.field == "auth" && !error.reason.contains("geheim"), "{error}");
            assert!(!format!("{auth:?}").contains("geheim"), "{auth:?}");
        }
    }

    #[test]
    fn each_part_of_oauth2_is_checked() {
        const URL: &str = "https://id.example/token";
        for good in [oauth2(URL, "me", &[], None), oauth2(URL, "me", &["a"; MAX_SCOPES], Some("https://siem.example"))]
        {
            assert!(matches!(good.check(), Ok(Auth::Fetched(_))), "{good:?}");
        }
        let refused = [
            (oauth2("ftp://id.example/", "me", &[], None), "token_url: the URL must begin with"),
            (oauth2(URL, "", &[], None), "client_id has 0 bytes"),
            (oauth2(URL, "me", &["a b"], None), "a scope has a character at byte 1"),
            (oauth2(URL, "me", &["a"; MAX_SCOPES + 1], None), "has 65 scopes, the limit is 64"),
            (oauth2(URL, "me", &[], Some("a\n")), "audience has a character at byte 1"),
        ];
        for (auth, expected) in refused {
            let Err(error) = auth.check() else { panic!("{auth:?}") };
            assert!(error.reason.starts_with(expected), "{error}");
        }
    }
}
