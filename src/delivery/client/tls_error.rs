//! What is wrong with a receiver's TLS, in words.

use std::fmt::{Debug, Write as _};
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The most names of a certificate in an error.
const MAX_NAMES_SHOWN: usize = 5;
/// The longest name of a certificate in an error, in characters.
const MAX_NAME_SHOWN_CHARS: usize = 100;

/// Why a handshake has failed, or a connection broke within it.
pub(super) fn handshake_failure(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => words(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the receiver closed the connection within the handshake".to_owned()
        }
        None => format!("the connection broke within the handshake: {}", error.kind()),
    }
}

/// The error in words, with the way out where there is one.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::NoApplicationProtocol => "the receiver does not speak HTTP/1.1".to_owned(),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::PeerSentOversizedRecord => {
            "what the receiver sends is no TLS (it may speak plain HTTP on this port)".to_owned()
        }
        Error::DecryptError => "a record of the receiver cannot be decrypted".to_owned(),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the receiver speaks neither TLS 1.2 nor 1.3".to_owned(),
        Error::PeerIncompatible(what) => format!("the receiver's TLS does not go with ours: {}", spaced(what)),
        Error::PeerMisbehaved(what) => format!("the receiver breaks the rules of TLS: {}", spaced(what)),
        Error::NoCertificatesPresented => "the receiver shows no certificate".to_owned(),
        error => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    let fault = match error {
        CertificateError::UnknownIssuer => {
            return "the certificate's authority is unknown; give it as `ca`".to_owned();
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!("expired on {}", day(*not_after)),
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", day(*not_before))
        }
        CertificateError::NotValidForName => "is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = names(presented);
            let names = if names.is_empty() { "no host" } else { &names };
            format!("is for {names} and not for {}", expected.to_str())
        }
        CertificateError::BadEncoding => "cannot be read".to_owned(),
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::BadSignature => "has a signature that is not its authority's".to_owned(),
        CertificateError::UnhandledCriticalExtension => "demands an extension that is not known here".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for servers".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed with an algorithm that is not accepted".to_owned()
        }
        // webpki's errors that rustls has no words for: its type is not ours to name.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => {
                return "the certificate is one of an authority; give this certificate itself as `ca`".to_owned();
            }
            other => format!("is refused: {}", spaced_text(other)),
        },
        error => format!("is refused: {error}"),
    };
    format!("the certificate {fault}")
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the receiver asks for a client certificate; give one as `client_certificate`".to_owned()
        }
        AlertDescription::NoApplicationProtocol => "the receiver does not speak HTTP/1.1".to_owned(),
        AlertDescription::ProtocolVersion => "the receiver speaks neither TLS 1.2 nor 1.3".to_owned(),
        AlertDescription::UnrecognisedName => "the receiver knows no host of this name".to_owned(),
        AlertDescription::UnknownCA => "the receiver does not know the authority of the client certificate".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => {
            format!("the receiver does not accept the client certificate: {}", spaced(&alert))
        }
        AlertDescription::HandshakeFailure => {
            "the receiver refuses the handshake: no algorithms in common, or it asks for a client certificate"
                .to_owned()
        }
        alert => format!("the receiver ended the connection: {}", spaced(&alert)),
    }
}

/// `a.example, 192.0.2.1`, of `DnsName("a.example")` and the like.
fn names(presented: &[String]) -> String {
    let name = |presented: &String| {
        let inside = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        let name = inside.unwrap_or(presented).trim_matches('"');
        // It is the receiver's text.
        let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        name.chars().take(MAX_NAME_SHOWN_CHARS).map(visible).collect::<String>()
    };
    let mut shown = presented.iter().take(MAX_NAMES_SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if presented.len() > MAX_NAMES_SHOWN {
        // Writing to a string cannot fail.
        _ = write!(shown, " and {} more", presented.len() - MAX_NAMES_SHOWN);
    }
    shown
}

fn day(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a day far from now".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// `unknown ca` of `UnknownCa`.
fn spaced(what: &impl Debug) -> String {
    spaced_text(&format!("{what:?}"))
}

fn spaced_text(what: &str) -> String {
    let mut words = String::with_capacity(what.len() + 8);
    let mut was_lower = false;
    for c in what.chars() {
        if c.is_ascii_uppercase() && was_lower {
            words.push(' ');
        }
        was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        words.push(c.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use rustls::{InvalidMessage, OtherError, PeerMisbehaved};

    use super::*;

    #[test]
    fn the_usual_errors_are_said_in_words() {
        let new_year = UnixTime::since_unix_epoch(Duration::from_hours(438_288));
        let other = |name: &str| {
            let presented = [format!("DnsName(\"{name}\")"), "IpAddress(192.0.2.1)".to_owned()].to_vec();
            let expected = ServerName::try_from("c.example").unwrap();
            Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented })
        };
        let of_certificate = [
            (CertificateError::UnknownIssuer, "the certificate's authority is unknown; give it as `ca`"),
            (
                CertificateError::ExpiredContext { time: new_year, not_after: new_year },
                "the certificate expired on 2020-01-01",
            ),
            (
                CertificateError::NotValidYetContext { time: new_year, not_before: new_year },
                "the certificate is not valid before 2020-01-01",
            ),
            (
                CertificateError::Other(OtherError(Arc::new(io::Error::other("PathLenConstraintViolated")))),
                "the certificate is refused: path len constraint violated",
            ),
        ];
        let mut cases: Vec<_> =
            of_certificate.into_iter().map(|(error, text)| (Error::InvalidCertificate(error), text)).collect();
        cases.extend([
            (other("a.example"), "the certificate is for a.example, 192.0.2.1 and not for c.example"),
            (other("a\r\n\u{202e}"), "the certificate is for a???, 192.0.2.1 and not for c.example"),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "the receiver asks for a client certificate; give one as `client_certificate`",
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateExpired),
                "the receiver does not accept the client certificate: certificate expired",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "what the receiver sends is no TLS (it may speak plain HTTP on this port)",
            ),
            (
                Error::PeerMisbehaved(PeerMisbehaved::MissingKeyShare),
                "the receiver breaks the rules of TLS: missing key share",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
                "the receiver speaks neither TLS 1.2 nor 1.3",
            ),
        ]);
        for (error, expected) in cases {
            assert_eq!(words(&error), expected);
        }
    }

    #[test]
    fn a_certificate_with_many_names_shows_some() {
        let presented: Vec<_> = (0..9).map(|n| format!("DnsName(\"{n}.example\")")).collect();
        assert_eq!(names(&presented), "0.example, 1.example, 2.example, 3.example, 4.example and 4 more");
        assert_eq!(names(&[format!("DnsName(\"{}\")", "a".repeat(999))]).len(), MAX_NAME_SHOWN_CHARS);
    }
}
