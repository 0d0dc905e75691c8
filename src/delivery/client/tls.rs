//! TLS towards receivers: who is trusted, and how it is spoken.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::trust::GivenOrIssued;

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// Mozilla's, built in.
    #[default]
    WebPki,
    /// The operating system's and Mozilla's.
    Native,
    /// These alone.
    Custom(RootCertStore),
}

impl Roots {
    /// The authorities that it stands for.
    pub(crate) fn into_store(self) -> RootCertStore {
        let mozilla = || webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>();
        match self {
            Self::WebPki => mozilla(),
            Self::Custom(store) => store,
            Self::Native => {
                let mut store = mozilla();
                let native = rustls_native_certs::load_native_certs();
                for error in native.errors {
                    tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
                }
                store.add_parsable_certificates(native.certs);
                store
            }
        }
    }
}

/// How many sessions a configuration remembers, to resume them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::delivery) enum SessionMemory {
    /// It connects to the hosts of all webhooks that have none of their own.
    EveryWebhook,
    /// It connects to a receiver and a token endpoint.
    OneWebhook,
}

/// How many sessions [`SessionMemory::OneWebhook`] has room for, rounded up by rustls to whole hosts.
const ONE_WEBHOOK_SESSIONS: usize = 16;

/// TLS that trusts `roots` and the very certificates `given`, and shows `certificate` to whoever asks for one.
pub(in crate::delivery) fn client_config(
    roots: Arc<RootCertStore>,
    given: &[CertificateDer<'static>],
    certificate: Option<Arc<SingleCertAndKey>>,
    memory: SessionMemory,
) -> Result<ClientConfig, rustls::Error> {
    // The provider is named here, so a program around this library need not install one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if given.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        let verifier = GivenOrIssued::new(given.to_vec(), roots, provider)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    let mut config = match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if memory == SessionMemory::OneWebhook {
        config.resumption = Resumption::in_memory_sessions(ONE_WEBHOOK_SESSIONS);
    }
    Ok(config)
}
