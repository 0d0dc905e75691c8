//! The dates of a certificate, which webpki does not hand out (RFC 5280, section 4.1).

use std::time::Duration;

use jiff::civil::DateTime;
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// From when and until when a certificate is valid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Validity {
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Validity {
    /// `None`: this is no certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (certificate, _) = element(certificate, SEQUENCE)?;
        let (signed, _) = element(certificate, SEQUENCE)?;
        let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
        let (_serial_number, rest) = element(rest, INTEGER)?;
        let (_signature, rest) = element(rest, SEQUENCE)?;
        let (_issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, _) = element(rest, SEQUENCE)?;
        let (not_before, rest) = time(validity)?;
        let (not_after, _) = time(rest)?;
        Some(Self { not_before, not_after })
    }

    pub(super) fn check(&self, now: UnixTime) -> Result<(), CertificateError> {
        let (not_before, not_after) = (self.not_before, self.not_after);
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before });
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after });
        }
        Ok(())
    }
}

/// The content of the element of DER that `bytes` begin with, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        // No certificate is longer than four bytes can say.
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}

fn time(bytes: &[u8]) -> Option<(UnixTime, &[u8])> {
    let (text, rest, year_digits) = match element(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, 2),
        None => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, others) = digits.split_at(year_digits);
    let number = |digits: &[u8]| digits.iter().fold(0_i16, |number, digit| number * 10 + i16::from(digit - b'0'));
    // Section 4.1.2.5.1: two digits stand for the years 1950 to 2049.
    let year = match (year_digits, number(year)) {
        (2, year @ 0..=49) => 2000 + year,
        (2, year) => 1900 + year,
        (_, year) => year,
    };
    let parts = others.chunks(2).map(|digits| i8::try_from(number(digits)).ok()).collect::<Option<Vec<_>>>()?;
    let &[month, day, hour, minute, second] = parts.as_slice() else { return None };
    let time = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let seconds = time.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_secs();
    // A certificate that was valid before 1970 is valid since then, as far as this matters.
    Some((UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0))), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn the_dates_of_a_certificate_are_read_in_both_forms() {
        // 2049 has two digits of a year, 2050 four.
        for (year, expected) in [(2_049, 2_493_072_000), (2_050, 2_524_608_000)] {
            let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
            params.not_before = date_time_ymd(1999, 12, 31);
            params.not_after = date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let validity = Validity::of(certificate.der()).unwrap();
            assert_eq!(validity, Validity { not_before: at(946_598_400), not_after: at(expected) });
            assert!(matches!(validity.check(at(946_598_399)), Err(CertificateError::NotValidYetContext { .. })));
            assert!(validity.check(at(946_598_400)).is_ok() && validity.check(at(expected)).is_ok());
            assert!(matches!(validity.check(at(expected + 1)), Err(CertificateError::ExpiredContext { .. })));
            for length in 0..certificate.der().len().min(120) {
                assert_eq!(Validity::of(&CertificateDer::from(&certificate.der()[..length])), None);
            }
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["20240230000000Z", "20241301000000Z", "2024010100000Z", "20240101000000", "2024010100000xZ"] {
            let der = [&[GENERALIZED_TIME, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            assert!(time(&der).is_none(), "{text}");
        }
        assert!(element(&[SEQUENCE, 0x85, 0, 0, 0, 0, 0], SEQUENCE).is_none());
        assert!(element(&[SEQUENCE, 0x84, 255, 255, 255, 255, 0], SEQUENCE).is_none());
    }
}
