//! Which signatures a webhook may have, and with which keys.

use super::*;
use crate::signing::Rotation;

fn named(names: &[&str]) -> Result<Signatures, Vec<SignaturesError>> {
    Signatures::parse(&names.iter().map(|name| (*name).into()).collect::<Vec<_>>())
}

fn own(name: &str) -> SignatureInput {
    let stripe = profile("stripe").unwrap().profile().clone();
    SignatureInput::Profile(Box::new(Profile { name: name.to_owned().into(), header: "X-Own".into(), ..stripe }))
}

#[test]
fn signatures_come_back_as_they_were_given() {
    let given = ["standard".into(), own("acme"), "decnet".into(), "github".into(), own("stripe")];
    let parsed = Signatures::parse(&given).unwrap();
    assert_eq!(parsed.inputs(), ["decnet".into(), "standard".into(), own("acme"), "github".into(), own("stripe")]);
    assert_eq!(Signatures::parse(&parsed.inputs()).unwrap(), parsed);
    assert_eq!(format!("{parsed:?}"), "Signatures(decnet, standard, acme, github, stripe)");
    assert!(parsed.contains(Scheme::Decnet) && !parsed.contains(Scheme::Ed25519) && !parsed.need_ed25519());
    assert!(named(&["ed25519"]).unwrap().need_ed25519());
    assert_eq!(named(&["standard", "decnet", "standard"]).unwrap(), Signatures::default());
}

#[test]
fn what_cannot_be_signatures_is_refused_with_the_reason() {
    let reason = |given: &[SignatureInput]| {
        Signatures::parse(given).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(reason(&[]), "at least one signature is needed");
    let unknown = reason(&["strype".into(), "gitlab".into()]);
    let known = "there is no signature \"strype\"; there are decnet, standard, ed25519, svix, github, stripe, shopify, slack, \
        convoy, convoy_simple, outpost, hook0, and profiles of one's own; \"gitlab\" is verified alone";
    assert!(unknown.starts_with(known), "{unknown}");
    let long = reason(&[SignatureInput::Name("x".repeat(10_000))]);
    assert!(long.len() < 400, "{long}");
    let many: Vec<_> = (0..=MAX_WEBHOOK_SIGNATURES).map(|_| "github".into()).collect();
    assert_eq!(reason(&many), "has 9 signatures, the limit is 8");
    let many: Vec<_> = (0..=MAX_OWN_PROFILES).map(|n| own(&format!("own-{n}"))).collect();
    assert_eq!(reason(&many), "has 5 profiles of its own, the limit is 4");
    let mut wrong = own("acme");
    if let SignatureInput::Profile(profile) = &mut wrong {
        profile.rotation = Rotation::Header;
    }
    assert!(reason(&[wrong]).starts_with("\"acme\": previous_header: goes with"));
    assert_eq!(reason(&["stripe".into(), own("stripe")]), "two signatures are named \"stripe\"");
    assert!(Signatures::parse(&["github".into(), "github".into()]).is_ok(), "a name may be there twice");
}

/// The attack: under one key a Stripe signature of `{timestamp}.{body}` is a GitHub signature of these bytes as a body, and
/// the other way round.
#[test]
fn one_key_makes_no_two_signatures_of_which_one_could_be_read_as_the_other() {
    let keys = SigningKeys::generate();
    for (names, is_fine) in [
        (vec!["decnet", "standard"], true),
        (vec!["decnet", "standard", "ed25519"], true),
        (vec!["standard", "svix"], true),
        (vec!["decnet", "github"], true),
        (vec!["github", "shopify", "outpost", "decnet"], true),
        (vec!["stripe", "slack"], true),
        (vec!["stripe", "convoy"], true),
        (vec!["stripe", "hook0"], true),
        (vec!["standard", "stripe"], true),
        (vec!["decnet", "stripe"], false),
        (vec!["github", "stripe"], false),
        (vec!["github", "slack"], false),
        (vec!["convoy_simple", "hook0"], false),
    ] {
        let checked = named(&names).unwrap().check_keys(&keys);
        assert_eq!(checked.is_ok(), is_fine, "{names:?}: {checked:?}");
    }
    let error = named(&["decnet", "stripe"]).unwrap().check_keys(&keys).unwrap_err().to_string();
    assert!(error.starts_with("\"decnet\" and \"stripe\" sign with the same key"), "{error}");
}

/// A receiver that still takes the keys of before must not take a request of the new ones for another.
#[test]
fn keys_of_all_generations_are_compared() {
    let secret = "abcdefghijklmnopqrstuvwxyz";
    let old = SigningKeys::new(Secret::parse(secret).unwrap(), StandardKey::generate());
    let standard = StandardKey::parse("whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=").unwrap();
    let new = SigningKeys::new(Secret::generate(), standard);
    let day = std::time::Duration::from_hours(24);
    let rotated = old.rotated(new.clone(), day, crate::clock::UnixMicros(1)).unwrap();
    assert!(Signatures::default().check_keys(&rotated).is_err());
    assert!(Signatures::default().check_keys(&new).is_ok());
    let back = new.rotated(
        SigningKeys::new(Secret::parse(secret).unwrap(), StandardKey::generate()),
        day,
        crate::clock::UnixMicros(1),
    );
    assert!(Signatures::default().check_keys(&back.unwrap()).is_err());
}

/// A key is its bytes, whatever they are called.
#[test]
fn a_secret_with_the_bytes_of_the_standard_key_is_the_same_key() {
    let same = SigningKeys::new(
        Secret::parse("abcdefghijklmnopqrstuvwxyz").unwrap(),
        StandardKey::parse("whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=").unwrap(),
    );
    let padded = SigningKeys {
        standard: StandardKey::parse("whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoA").unwrap(),
        ..same.clone()
    };
    for keys in [same, padded] {
        assert!(Signatures::default().check_keys(&keys).is_err());
        assert!(named(&["decnet"]).unwrap().check_keys(&keys).is_ok());
        assert!(named(&["standard", "github"]).unwrap().check_keys(&keys).is_err());
    }
    assert!(Signatures::default().check_keys(&SigningKeys::generate()).is_ok());
}
