//! TLS towards the database.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::delivery::client::Roots;

/// With TLS the server's certificate must be issued by one of `roots` and for the host's name, as with
/// `sslmode=verify-full` of other clients. Encryption without authentication would protect nothing.
pub(super) fn connector(roots: Roots) -> Result<MakeRustlsConnect, rustls::Error> {
    // The provider is given here, so that a program around this library need not install one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.into_store())
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
