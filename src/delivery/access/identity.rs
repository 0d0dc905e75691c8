//! TLS for one webhook: its own authorities beside the usual ones, and its client certificate.

use std::fmt::Display;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::{AccessError, SecretText};
use crate::delivery::client::Authorities;

/// The most text of a `ca`, or of a client certificate's chain or key, in bytes.
pub const MAX_PEM_BYTES: usize = 64 * 1024;
/// The most certificates in a `ca`, or in a client certificate's chain.
pub const MAX_CERTIFICATES: usize = 32;

/// A client certificate and its key, for mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(deny_unknown_fields),
    schema(as = ClientCertificate)
)]
pub struct RawClientCertificate {
    /// PEM: the certificate first, then those between it and its authority.
    pub certificate: String,
    /// PEM: PKCS#8, PKCS#1 or SEC1, not encrypted. Not shown again: `…`, which is shown instead, is the one of before.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub key: SecretText,
}

/// The authorities of a `ca`.
pub(super) fn authorities(text: &str) -> Result<Authorities, AccessError> {
    let wrong = |reason: &dyn Display| AccessError::new("ca", reason);
    let mut roots = RootCertStore::empty();
    let given = certificates(text).map_err(|reason| wrong(&reason))?;
    for (index, certificate) in given.iter().enumerate() {
        let number = index + 1;
        let added = roots.add(certificate.clone());
        added
            .map_err(|_| wrong(&format_args!("certificate {number} cannot be used: it is no certificate of X.509")))?;
    }
    Ok(Authorities { roots, given })
}

/// The name of `server_name`: a host or an address, as a certificate has it.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, AccessError> {
    // Names in SNI and in certificates have no trailing dot (RFC 6066, section 3).
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    ServerName::try_from(name).map_err(|_| {
        AccessError::new("server_name", "is no host name and no address, as in siem.internal (no URL, no port)")
    })
}

impl RawClientCertificate {
    pub(super) fn shown(&self) -> Self {
        Self { certificate: self.certificate.clone(), key: SecretText::placeholder() }
    }

    pub(super) fn check(&self) -> Result<Arc<SingleCertAndKey>, AccessError> {
        let wrong = |reason: &dyn Display| AccessError::new("client_certificate", reason);
        let chain = certificates(&self.certificate).map_err(|reason| wrong(&format_args!("certificate {reason}")))?;
        let key = private_key(&self.key).map_err(|reason| wrong(&format_args!("key {reason}")))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => wrong(&"key is not the certificate's"),
            error => wrong(&format_args!("cannot be used: {error}")),
        })?;
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    check_size(text)?;
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match section.map_err(|error| malformed(&error))? {
            (SectionKind::Certificate, der) => certificates.push(CertificateDer::from(der)),
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _) => {
                return Err("has a private key; only certificates belong here".to_owned());
            }
            (kind, _) => return Err(format!("has a section that is no certificate ({kind:?})")),
        }
    }
    match certificates.len() {
        0 => Err("has no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()),
        1..=MAX_CERTIFICATES => Ok(certificates),
        count => Err(format!("has {count} certificates, the limit is {MAX_CERTIFICATES}")),
    }
}

/// A private key in PEM. The error goes on after the key's name.
pub(super) fn private_key(secret: &SecretText) -> Result<PrivateKeyDer<'static>, String> {
    let text = secret.expose();
    if secret.is_placeholder() {
        return Err("is the sign that stands for a secret; give the secret itself".to_owned());
    }
    check_size(text)?;
    if text.contains("ENCRYPTED") {
        return Err("is encrypted; give it without a password (it is stored under the master key)".to_owned());
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => "has no private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned(),
        error => malformed(&error),
    })
}

fn check_size(text: &str) -> Result<(), String> {
    match text.len() {
        0..=MAX_PEM_BYTES => Ok(()),
        length => Err(format!("has {length} bytes, the limit is {MAX_PEM_BYTES}")),
    }
}

/// The message does not repeat the text, which may be a key.
fn malformed(error: &pem::Error) -> String {
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section does not begin as one does",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    };
    format!("is no PEM: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["client.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn reason(certificate: &str, key: &str) -> String {
        let raw = RawClientCertificate { certificate: certificate.to_owned(), key: key.into() };
        raw.check().map(|_| ()).unwrap_err().reason
    }

    #[test]
    fn authorities_are_certificates_and_nothing_else() {
        let (certificate, key) = pair();
        assert_eq!(authorities(&certificate.repeat(2)).unwrap().roots.len(), 2);
        let cut = &certificate[..certificate.len() / 2];
        let broken = certificate.replace("MII", "%%%");
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cases = [
            ("", "has no certificate"),
            ("hello", "has no certificate"),
            (cut, "a section does not end"),
            (&broken, "not base64"),
            (empty, "certificate 1 cannot be used"),
            (&format!("{certificate}{key}"), "has a private key"),
            (&certificate.repeat(MAX_CERTIFICATES + 1), "has 33 certificates, the limit is 32"),
            (&" ".repeat(MAX_PEM_BYTES + 1), "the limit is 65536"),
        ];
        for (text, expected) in cases {
            let Err(error) = authorities(text) else { panic!("{expected}") };
            assert!(error.field == "ca" && error.reason.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_server_name_is_a_host_or_an_address() {
        for (good, name) in
            [("SIEM.internal.", "siem.internal"), ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1")]
        {
            assert_eq!(server_name(good).unwrap().to_str(), name);
        }
        for wrong in ["", "a b", "https://a.example", "a.example:443", "a..b", "[::1]", &"a".repeat(300)] {
            assert_eq!(server_name(wrong).unwrap_err().field, "server_name", "{wrong}");
        }
    }

    #[test]
    fn a_client_certificate_needs_its_own_key() {
        let (certificate, key) = pair();
        assert!(RawClientCertificate { certificate: certificate.clone(), key: key.as_str().into() }.check().is_ok());
        assert_eq!(reason(&certificate, &pair().1), "key is not the certificate's");
        assert!(reason(&certificate, "").starts_with("key has no private key"));
        assert!(reason(&certificate, &certificate).starts_with("key has no private key"));
        assert!(reason(&certificate, "…").starts_with("key is the sign"));
        assert!(reason(&key, &key).starts_with("certificate has a private key"));
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(reason(&certificate, &encrypted).starts_with("key is encrypted"));
        let cut = &key[..key.len() / 2];
        assert_eq!(reason(&certificate, cut), "key is no PEM: a section does not end");
    }
}
