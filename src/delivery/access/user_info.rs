//! Credentials in a URL, before its host: `https://user:password@host/`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{AccessError, RawAuth};
use crate::hex;

/// `url` without the user name and the password that it has before its host, and these as basic credentials; `None`: it
/// has none. The rest is not checked.
pub fn split_credentials(url: &str) -> Result<Option<(String, RawAuth)>, AccessError> {
    let wrong = |reason: &str| AccessError::new("url", reason);
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
    // As in the check of a URL's spelling: where its authority ends, by any parser.
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    let Some((user_info, host)) = authority.split_once('@') else { return Ok(None) };
    if host.contains('@') {
        return Err(wrong("has more than one @ before its path (in a user name or password it is %40)"));
    }
    let (username, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decoded = |text| {
        percent_decoded(text)
            .ok_or_else(|| wrong("has a user name or password that is not percent-encoded UTF-8 (a % is %25)"))
    };
    let auth = RawAuth::Basic { username: decoded(username)?, password: decoded(password)?.into() };
    Ok(Some((format!("{scheme}://{}", &rest[user_info.len() + 1..]), auth)))
}

pub(super) fn percent_decoded(text: &str) -> Option<String> {
    // By default the decoder accepts a `%` without two digits after it.
    let is_byte = |after: &str| after.get(..2).is_some_and(|digits| hex::decode::<1>(digits).is_some());
    if !text.split('%').skip(1).all(is_byte) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> Option<(String, String, String)> {
        let (url, auth) = split_credentials(url).unwrap()?;
        let RawAuth::Basic { username, password } = auth else { panic!("{auth:?}") };
        Some((url, username, password.expose().to_owned()))
    }

    #[test]
    fn a_user_name_and_a_password_are_taken_out_of_a_url() {
        let parts = |url: &str, username: &str, password: &str| {
            Some((url.to_owned(), username.to_owned(), password.to_owned()))
        };
        assert_eq!(
            split("https://me:p%40ss%2f@h.example:1/a?b=c@d"),
            parts("https://h.example:1/a?b=c@d", "me", "p@ss/")
        );
        assert_eq!(split("https://me@h.example"), parts("https://h.example", "me", ""));
        assert_eq!(split("https://:a:b@h.example?x"), parts("https://h.example?x", "", "a:b"));
        for without in ["https://h.example/@", "https://h.example?@", "https://h.example#@", "h.example@", "", "a://"] {
            assert_eq!(split(without), None, "{without}");
        }
        for wrong in ["https://a:geheim@b@h.example/", "https://a:geheim%zz@h.example/", "https://geheim%ff@h.example/"]
        {
            let error = split_credentials(wrong).unwrap_err();
            assert!(error.field == "url" && !error.reason.contains("geheim"), "{wrong}: {error}");
        }
    }
}
