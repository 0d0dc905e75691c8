//! Which DECNET's admins are admins here, too.

use secrecy::SecretString;
use url::Url;

use super::environment::Environment;
use super::{ConfigError, Origin, Shown};
use crate::api::auth::{DecnetSettings, MIN_DECNET_JWT_SECRET_BYTES};

const API: &str = "decnet_api";
const SECRET: &str = "decnet_jwt_secret";
const SECRET_VARIABLE: &str = "POSTRIDER_DECNET_JWT_SECRET";

/// `api`: the setting, empty for none. The secret is [`SECRET_VARIABLE`], or DECNET's own variable.
pub(super) fn read(
    api: &str,
    shown: &[Shown],
    environment: &Environment,
) -> Result<Option<DecnetSettings>, ConfigError> {
    let own = environment.secret(SECRET)?;
    if api.is_empty() {
        return match own {
            Some((name, _)) => {
                Err(ConfigError::Env { name, reason: format!("needs {API}, the address of DECNET's API") })
            }
            None => Ok(None),
        };
    }
    let origin = shown.iter().find(|shown| shown.key == API).map_or(Origin::Default, |shown| shown.origin);
    let invalid = |reason: String| ConfigError::Value { key: API, origin, reason };
    let is_api = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            // The routes are below it.
            && !url.path().trim_end_matches('/').ends_with("/api/v1")
    };
    let url = Url::parse(api).ok().filter(is_api);
    let url = url.ok_or_else(|| {
        invalid("must be the address of DECNET's API, as in http://127.0.0.1:8000, without /api/v1".to_owned())
    })?;
    let foreign = || environment.decnet_jwt_secret().map(|secret| ("DECNET_JWT_SECRET".to_owned(), secret.to_owned()));
    let (name, secret) = own.or_else(foreign).ok_or_else(|| {
        invalid(format!("needs {SECRET_VARIABLE}, what DECNET signs tokens with (DECNET_JWT_SECRET of its .env.local)"))
    })?;
    if secret.len() < MIN_DECNET_JWT_SECRET_BYTES {
        let reason = format!("must have at least {MIN_DECNET_JWT_SECRET_BYTES} bytes");
        return Err(ConfigError::Env { name, reason });
    }
    Ok(Some(DecnetSettings { api: url, secret: SecretString::from(secret) }))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, RawConfig};
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        const GOOD: &str = "a secret of at least 32 characters!";
        let load = |api: Option<&str>, variables: &[(&str, &str)]| {
            let flags = RawConfig { decnet_api: api.map(str::to_owned), ..RawConfig::default() };
            let config = Config::layered(&RawConfig::default(), &Environment::of(variables), &flags);
            config.map(|config| config.decnet.is_some()).map_err(|error| error.to_string())
        };
        let api = Some("http://127.0.0.1:8000");
        let (own, foreign) = (("POSTRIDER_DECNET_JWT_SECRET", GOOD), ("DECNET_JWT_SECRET", GOOD));
        assert_eq!(load(api, &[own]), Ok(true));
        assert_eq!(load(api, &[foreign]), Ok(true));
        assert_eq!(load(None, &[foreign]), Ok(false), "DECNET's variable alone means nothing");
        for (api, variables, expected) in [
            (None, &[own][..], "POSTRIDER_DECNET_JWT_SECRET: needs decnet_api"),
            (api, &[], "decnet_api (flag): needs POSTRIDER_DECNET_JWT_SECRET"),
            (api, &[("DECNET_JWT_SECRET", "short")], "DECNET_JWT_SECRET: must have at least 32 bytes"),
            (Some("127.0.0.1:8000"), &[own], "decnet_api (flag): must be the address of DECNET's API"),
            (Some("http://127.0.0.1:8000/api/v1/"), &[own], "decnet_api (flag): must be the address of DECNET's API"),
            (Some("http://u:p@127.0.0.1"), &[own], "decnet_api (flag): must be the address of DECNET's API"),
        ] {
            let error = load(api, variables).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
