//! TLS towards brokers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::delivery::client::Roots;
use crate::sources::secret::{Secret, Surroundings};

/// The table `tls`, as given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sources) struct RawTls {
    #[serde(default = "yes")]
    required: bool,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<Secret>,
}

fn yes() -> bool {
    true
}

/// The same. The files of certificates are read for each connection, so that new ones need no restart.
#[derive(Clone, Debug, Default)]
pub(in crate::sources) struct TlsSettings {
    /// Otherwise the server says whether it wants TLS.
    pub(in crate::sources) is_required: bool,
    /// The file of the authorities that are trusted; `None`: the system's and Mozilla's.
    ca: Option<PathBuf>,
    client: Option<Client>,
}

/// The client's certificate.
#[derive(Clone, Debug)]
struct Client {
    /// A file with the certificate first, then those between it and its authority.
    certificate: PathBuf,
    key: SecretString,
}

impl RawTls {
    pub(in crate::sources) fn within(self, surroundings: &Surroundings) -> Result<TlsSettings, String> {
        let client = match (self.certificate, self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let key = key.read(surroundings).map_err(|reason| format!("tls.key: {reason}"))?;
                Some(Client { certificate, key })
            }
            _ => return Err("tls: certificate and key belong together".to_owned()),
        };
        let settings = TlsSettings { is_required: self.required, ca: self.ca, client };
        settings.config().map(|_| settings)
    }
}

impl TlsSettings {
    pub(in crate::sources) fn config(&self) -> Result<ClientConfig, String> {
        let roots = match &self.ca {
            None => Roots::Native,
            Some(ca) => {
                let mut store = RootCertStore::empty();
                for certificate in certificates(ca).map_err(|reason| format!("tls.ca: {reason}"))? {
                    let reason = |_| format!("tls.ca: {} has a certificate that is none of X.509", ca.display());
                    store.add(certificate).map_err(reason)?;
                }
                Roots::Custom(store)
            }
        };
        // The provider is given here, so that a program around this library need not install one.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls: {error}"))?
            .with_root_certificates(roots.into_store());
        let Some(Client { certificate, key }) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(certificate).map_err(|reason| format!("tls.certificate: {reason}"))?;
        // The reason does not repeat the text.
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
            .map_err(|_| "tls.key: has no private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned())?;
        builder.with_client_auth_cert(chain, key).map_err(|error| format!("tls.certificate: {error}"))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} has no certificates in PEM (-----BEGIN CERTIFICATE-----)", file.display())),
    }
}
