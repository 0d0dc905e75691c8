//! The sign that stands for a secret: where a user gives it back, it means the present secret.

use super::{RawAccess, RawAuth, SecretText};
use crate::delivery::guard::Destination;

impl RawAccess {
    /// Replaces each [`super::SHOWN_SECRET`] by the secret of `old` that it stands for. Without such a secret the sign
    /// stays, and is refused later.
    #[must_use]
    pub fn unmasked(mut self, old: &Self) -> Self {
        for (name, value) in &mut self.headers {
            let before = old.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            if let Some((_, before)) = before.filter(|_| value.is_placeholder()) {
                value.clone_from(before);
            }
        }
        if let (Some(auth), Some(before)) = (&mut self.auth, &old.auth) {
            auth.unmask(before);
        }
        if let (Some(pair), Some(before)) = (&mut self.client_certificate, &old.client_certificate)
            && pair.key.is_placeholder()
        {
            pair.key.clone_from(&before.key);
        }
        if let (Some(proxy), Some(before)) = (&mut self.proxy, &old.proxy)
            && proxy.url == before.shown().url
        {
            proxy.url.clone_from(&before.url);
        }
        self
    }
}

impl RawAuth {
    /// Whether a secret of it is the sign.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.clone().secrets_mut().into_iter().flatten().any(|secret| secret.is_placeholder())
    }

    fn unmask(&mut self, before: &Self) {
        if std::mem::discriminant(self) != std::mem::discriminant(before) {
            return;
        }
        if let (Some(url), Some(known)) = (self.endpoint_mut(), before.clone().endpoint_mut())
            && Destination::parse(known).is_ok_and(|known| known.masked() == *url)
        {
            url.clone_from(known);
        }
        for (secret, known) in self.secrets_mut().into_iter().zip(before.clone().secrets_mut()) {
            if let (Some(secret), Some(known)) = (secret, known)
                && secret.is_placeholder()
            {
                secret.clone_from(known);
            }
        }
    }

    /// The URL that tokens are fetched from.
    pub(super) fn endpoint_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Basic { .. } | Self::Bearer { .. } => None,
            Self::OAuth2 { token_url: url, .. } | Self::Login { url, .. } => Some(url),
        }
    }

    /// Each secret that it may have, always in the same order.
    pub(super) fn secrets_mut(&mut self) -> [Option<&mut SecretText>; 2] {
        match self {
            Self::Basic { password: secret, .. } | Self::Bearer { token: secret } => [Some(secret), None],
            Self::OAuth2 { client_secret, private_key, .. } => [client_secret.as_mut(), private_key.as_mut()],
            Self::Login { password, body, .. } => [password.as_mut(), body.as_mut()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::access::{RawClientCertificate, RawProxy, Resolution};

    #[test]
    fn the_sign_brings_back_the_secret_of_before_and_no_other() {
        let old = RawAccess {
            headers: [("X-Key".to_owned(), "one".into()), ("X-Team".to_owned(), "blue".into())].into(),
            auth: Some(RawAuth::Basic { username: "me".to_owned(), password: "two".into() }),
            client_certificate: Some(RawClientCertificate { certificate: "c".to_owned(), key: "three".into() }),
            proxy: Some(RawProxy { url: "http://me:four@proxy.example:1".into(), resolve: Resolution::Here }),
            ..RawAccess::default()
        };
        assert_eq!(old.shown().unmasked(&old), old);

        let mut other = old.shown();
        other.headers = [("x-key".to_owned(), "…".into()), ("X-New".to_owned(), "…".into())].into();
        other.auth = Some(RawAuth::Bearer { token: "…".into() });
        other.proxy = Some(RawProxy { url: "http://me:…@other.example:1".into(), resolve: Resolution::Here });
        let back = other.clone().unmasked(&old);
        assert_eq!(back.headers["x-key"].expose(), "one", "a name is the same in any case");
        assert_eq!(back.headers["X-New"].expose(), "…");
        assert_eq!((&back.auth, &back.proxy), (&other.auth, &other.proxy), "another's password is not put there");
    }
}
