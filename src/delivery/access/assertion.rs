//! A client's own tokens for a token endpoint (`private_key_jwt`: RFC 7523, section 2.2, and `OpenID` Connect Core, section 9).

use super::SecretText;
use super::identity::private_key;
use crate::clock::UnixMicros;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;

/// The life of an assertion, in seconds: it is sent at once.
const LIFETIME_S: i64 = 60;
/// The smallest RSA modulus, in bytes (RFC 7518, section 3.3).
const MIN_RSA_BYTES: usize = 256;
/// The length of an assertion's id.
const JTI_BYTES: usize = 16;

/// A private key, and its name at the server.
pub(super) struct AssertionKey {
    pair: Pair,
    key_id: Option<String>,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl AssertionKey {
    /// A key in PEM: RSA of 2,048 bits or more, P-256 or Ed25519. The error does not repeat it.
    pub(super) fn parse(pem: &SecretText, key_id: Option<&str>) -> Result<Self, String> {
        let key = private_key(pem)?;
        let pair = match &key {
            PrivateKeyDer::Pkcs1(der) => rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()).ok()),
            PrivateKeyDer::Sec1(der) => {
                let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_sec1_der());
                pair.ok().map(|pair| Pair::P256(Box::new(pair)))
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok();
                let ed25519 = || Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok();
                rsa(RsaKeyPair::from_pkcs8(der).ok())
                    .or_else(|| p256().map(|pair| Pair::P256(Box::new(pair))))
                    .or_else(|| ed25519().map(|pair| Pair::Ed25519(Box::new(pair))))
            }
            _ => None,
        };
        let pair = pair.ok_or("is none that can sign: take RSA of 2,048 bits or more, P-256 or Ed25519")?;
        Ok(Self { pair, key_id: key_id.map(str::to_owned) })
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// A signed assertion of `client_id` for `audience`, made at `now`; `None`: the key cannot sign.
    pub(super) fn assert(&self, client_id: &str, audience: &str, now: UnixMicros) -> Option<String> {
        let issued_at = now.seconds();
        let kid = self.key_id.as_deref().map(|kid| format!(",\"kid\":{}", quoted(kid))).unwrap_or_default();
        let header = format!("{{\"alg\":\"{}\"{kid},\"typ\":\"JWT\"}}", self.algorithm());
        let mut jti = [0; JTI_BYTES];
        aws_lc_rs::rand::fill(&mut jti).ok()?;
        let client = quoted(client_id);
        let claims = format!(
            "{{\"aud\":{},\"exp\":{},\"iat\":{issued_at},\"iss\":{client},\"jti\":\"{}\",\"sub\":{client}}}",
            quoted(audience),
            issued_at.saturating_add(LIFETIME_S),
            URL_SAFE_NO_PAD.encode(jti),
        );
        let mut assertion = URL_SAFE_NO_PAD.encode(header);
        assertion.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut assertion);
        let signature = self.sign(assertion.as_bytes())?;
        assertion.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut assertion);
        Some(assertion)
    }

    fn sign(&self, content: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), content, &mut signature).ok()?;
                Some(signature)
            }
            Pair::P256(pair) => Some(pair.sign(&SystemRandom::new(), content).ok()?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.sign(content).as_ref().to_vec()),
        }
    }
}

fn rsa(pair: Option<RsaKeyPair>) -> Option<Pair> {
    pair.filter(|pair| pair.public_modulus_len() >= MIN_RSA_BYTES).map(|pair| Pair::Rsa(Box::new(pair)))
}

/// A JSON text. Control characters were refused with the settings.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn decoded(part: &str) -> String {
        String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn an_assertion_is_what_the_specification_says_and_verifies() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = AssertionKey::parse(&pair.serialize_pem().into(), Some("k\"1")).unwrap();
        let assertion = key.assert("me\\", "https://id.example/token", UnixMicros(1_790_000_000_000_000)).unwrap();
        let parts: Vec<&str> = assertion.split('.').collect();
        assert_eq!(decoded(parts[0]), r#"{"alg":"ES256","kid":"k\"1","typ":"JWT"}"#);
        let claims = decoded(parts[1]);
        let begin = r#"{"aud":"https://id.example/token","exp":1790000060,"iat":1790000000,"iss":"me\\","jti":""#;
        assert!(claims.starts_with(begin) && claims.ends_with(r#"","sub":"me\\"}"#), "{claims}");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
        let signed = &assertion[..assertion.len() - parts[2].len() - 1];
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
        let another = key.assert("me\\", "https://id.example/token", UnixMicros(1_790_000_000_000_000)).unwrap();
        assert_ne!(another.split('.').nth(1), Some(parts[1]), "no two have one jti");
    }

    #[test]
    fn only_keys_that_servers_know_are_taken() {
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        assert_eq!(AssertionKey::parse(&ed25519.into(), None).unwrap().algorithm(), "EdDSA");
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        let rsa = AssertionKey::parse(&pem.into(), None).unwrap();
        assert_eq!(rsa.algorithm(), "RS256");
        assert_eq!(
            decoded(rsa.assert("c", "a", UnixMicros(0)).unwrap().split('.').next().unwrap()),
            r#"{"alg":"RS256","typ":"JWT"}"#
        );
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for (wrong, reason) in [(&*p384, "is none that can sign"), ("", "has no private key"), ("…", "is the sign")] {
            let Err(error) = AssertionKey::parse(&wrong.into(), None) else { panic!("{reason}") };
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
