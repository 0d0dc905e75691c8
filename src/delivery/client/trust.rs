//! Trust in one webhook's receiver: a certificate that was itself given as `ca` is accepted where it stands.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::validity::Validity;

/// Accepts a receiver that shows one of `given`, byte for byte, and is named by it, within its dates; every other one as
/// webpki does. Certificates that appliances make for themselves say that they are authorities (`CA:TRUE`), and webpki
/// accepts none of those at the end of a chain.
#[derive(Debug)]
pub(super) struct GivenOrIssued {
    given: Vec<CertificateDer<'static>>,
    issued: Arc<WebPkiServerVerifier>,
}

impl GivenOrIssued {
    /// `roots` issue certificates.
    pub(super) fn new(
        given: Vec<CertificateDer<'static>>,
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let issued = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        Ok(Self { given, issued: issued.map_err(|error| Error::General(error.to_string()))? })
    }
}

impl ServerCertVerifier for GivenOrIssued {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.given.iter().any(|given| given == end_entity) {
            return self.issued.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        Validity::of(end_entity).ok_or(CertificateError::BadEncoding)?.check(now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}
