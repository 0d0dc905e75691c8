//! How a source signs in to NATS.

use async_nats::ConnectOptions;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::sources::secret::{Secret, Surroundings};

/// The settings, as given.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawLogin {
    user: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    nkey: Option<Secret>,
    credentials: Option<Secret>,
}

/// The names of the settings.
pub(super) const KEYS: [&str; 5] = ["user", "password", "token", "nkey", "credentials"];

#[derive(Clone, Debug)]
pub(super) enum Login {
    /// By nothing, or by the client certificate.
    Nothing,
    Password {
        user: String,
        password: SecretString,
    },
    Token(SecretString),
    /// The seed.
    Nkey(SecretString),
    /// The text of a creds file: a JWT and the seed of its user.
    Credentials(SecretString),
}

impl RawLogin {
    pub(super) fn within(self, surroundings: &Surroundings) -> Result<Login, String> {
        let read =
            |setting: &str, secret: &Secret| secret.read(surroundings).map_err(|reason| format!("{setting}: {reason}"));
        let login = match self {
            Self { user: None, password: None, token: None, nkey: None, credentials: None } => Login::Nothing,
            Self { user: Some(user), password: Some(password), token: None, nkey: None, credentials: None } => {
                Login::Password { user, password: read("password", &password)? }
            }
            Self { user: None, password: None, token: Some(token), nkey: None, credentials: None } => {
                Login::Token(read("token", &token)?)
            }
            Self { user: None, password: None, token: None, nkey: Some(seed), credentials: None } => {
                let seed = read("nkey", &seed)?;
                if !is_seed(seed.expose_secret()) {
                    return Err("nkey: must be the seed of a user: 58 characters that begin with SU".to_owned());
                }
                Login::Nkey(seed)
            }
            Self { user: None, password: None, token: None, nkey: None, credentials: Some(text) } => {
                // The client wants the line break at the end, which a secret of a file has lost.
                let text = SecretString::from(format!("{}\n", read("credentials", &text)?.expose_secret()));
                if ConnectOptions::new().credentials(text.expose_secret()).is_err() {
                    return Err("credentials: must have a JWT and the seed of its user, as a .creds file".to_owned());
                }
                Login::Credentials(text)
            }
            _ => return Err("one of user with password, token, nkey and credentials is enough".to_owned()),
        };
        Ok(login)
    }
}

fn is_seed(text: &str) -> bool {
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
}

impl Login {
    pub(super) fn apply(&self, options: ConnectOptions) -> std::io::Result<ConnectOptions> {
        let exposed = |secret: &SecretString| secret.expose_secret().to_owned();
        Ok(match self {
            Self::Nothing => options,
            Self::Password { user, password } => options.user_and_password(user.clone(), exposed(password)),
            Self::Token(token) => options.token(exposed(token)),
            Self::Nkey(seed) => options.nkey(exposed(seed)),
            Self::Credentials(text) => options.credentials(text.expose_secret())?,
        })
    }
}
