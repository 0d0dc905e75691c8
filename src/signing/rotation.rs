//! The keys of a webhook, and how new ones take over while receivers still have the old.
//!
//! Which keys sign is decided by the clock of each attempt. If that clock is set back, old keys sign for so much
//! longer; if it is set forward they stop so much earlier, and sign again when it is set right. An overlap that
//! began under a clock far in the future is cut to [`MAX_OVERLAP`] by the next rotation. To sign with an old key
//! once too often does no harm: a receiver needs one signature that it can verify.

use std::time::Duration;

use super::{
    ED25519_SIGNATURE_CHARS, Ed25519Key, STANDARD_SIGNATURE_CHARS, Scheme, Secret, StandardKey, push_ed25519,
    push_standard, signed_content,
};
use crate::clock::UnixMicros;

/// The most generations of keys that sign at once, the newest included.
pub const MAX_LIVE_KEYS: usize = 4;
/// The default overlap: the time for which old keys stay valid after a rotation.
pub const DEFAULT_OVERLAP: Duration = Duration::from_hours(24);
/// The longest overlap that a rotation may ask for.
pub const MAX_OVERLAP: Duration = Duration::from_hours(7 * 24);

/// The keys of a webhook.
///
/// The keys of one webhook differ because the DECNET signature covers the body alone: with one key, the
/// signature of a body that contains `a.1790000000.`, which an attacker can write, would pass as
/// a Standard Webhooks signature of the content after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeys {
    pub decnet: Secret,
    pub standard: StandardKey,
    /// Set if [`Scheme::Ed25519`] was ever chosen.
    pub ed25519: Option<Ed25519Key>,
    /// The time of the rotation to these keys; `None`: they are the first.
    pub since: Option<UnixMicros>,
    /// Old keys that may still sign, the newest first. At most [`MAX_LIVE_KEYS`] − 1 are live.
    pub older: Vec<OlderKeys>,
}

/// Keys that a rotation has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderKeys {
    pub decnet: Secret,
    pub standard: StandardKey,
    pub ed25519: Option<Ed25519Key>,
    /// As [`SigningKeys::since`].
    pub since: Option<UnixMicros>,
    /// The end of their use.
    pub until: UnixMicros,
}

/// The keys of one generation.
#[derive(Clone, Copy)]
pub(super) struct Generation<'a> {
    pub(super) decnet: &'a Secret,
    pub(super) standard: &'a StandardKey,
    pub(super) ed25519: Option<&'a Ed25519Key>,
}

impl<'a> From<&'a OlderKeys> for Generation<'a> {
    fn from(keys: &'a OlderKeys) -> Self {
        Self { decnet: &keys.decnet, standard: &keys.standard, ed25519: keys.ed25519.as_ref() }
    }
}

/// The reason why keys were not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error("an overlap is at most {} days, this one is {} s", MAX_OVERLAP.as_secs() / 86_400, overlap.as_secs())]
    Overlap { overlap: Duration },
    #[error(
        "{MAX_LIVE_KEYS} generations of keys are valid, the next one ends at {next_end}: wait until then, or rotate \
         with an overlap of 0, which ends all but the new one at once"
    )]
    TooMany { next_end: UnixMicros },
    #[error("is the one that the webhook has; leave it out, and a new one is made")]
    SameSecret,
    #[error("is the one that the webhook has; leave it out, and a new one is made")]
    SameStandardKey,
}

impl SigningKeys {
    /// The first keys of a webhook.
    #[must_use]
    pub fn new(decnet: Secret, standard: StandardKey) -> Self {
        Self { decnet, standard, ed25519: None, since: None, older: Vec::new() }
    }

    /// Random first keys.
    #[must_use]
    pub fn generate() -> Self {
        Self::new(Secret::generate(), StandardKey::generate())
    }

    /// Makes an Ed25519 key, unless there is one.
    pub fn need_ed25519(&mut self) {
        self.ed25519.get_or_insert_with(Ed25519Key::generate);
    }

    pub(super) fn newest(&self) -> Generation<'_> {
        Generation { decnet: &self.decnet, standard: &self.standard, ed25519: self.ed25519.as_ref() }
    }

    /// All keys that are known, the newest first, whether they still sign or not.
    pub(super) fn generations(&self) -> impl Iterator<Item = Generation<'_>> {
        std::iter::once(self.newest()).chain(self.older.iter().map(Generation::from))
    }

    /// The old keys that still sign at `now`, the newest first.
    pub fn older_live(&self, now: UnixMicros) -> impl Iterator<Item = &OlderKeys> {
        self.older.iter().filter(move |keys| now < keys.until)
    }

    /// The secret before the newest, if it is still valid, for `X-DECNET-Signature-Previous`.
    #[must_use]
    pub fn previous_secret(&self, now: UnixMicros) -> Option<&Secret> {
        self.older_live(now).next().map(|keys| &keys.decnet)
    }

    /// Rotates to `new` keys at `now`. The old keys sign for a further `overlap`. Without an overlap all old keys end
    /// at once, also the ones of earlier rotations. An Ed25519 key is generated if there was one and `new` has none.
    pub fn rotated(&self, new: Self, overlap: Duration, now: UnixMicros) -> Result<Self, RotationError> {
        if overlap > MAX_OVERLAP {
            return Err(RotationError::Overlap { overlap });
        }
        if new.decnet == self.decnet {
            return Err(RotationError::SameSecret);
        }
        if new.standard == self.standard {
            return Err(RotationError::SameStandardKey);
        }
        let mut rotated = Self { since: Some(now), older: Vec::new(), ..new };
        if self.ed25519.is_some() {
            rotated.need_ed25519();
        }
        if overlap.is_zero() {
            return Ok(rotated);
        }
        let latest = now.after(MAX_OVERLAP);
        let before = OlderKeys {
            decnet: self.decnet.clone(),
            standard: self.standard.clone(),
            ed25519: self.ed25519.clone(),
            since: self.since,
            until: now.after(overlap),
        };
        rotated.older.push(before);
        rotated
            .older
            .extend(self.older_live(now).map(|keys| OlderKeys { until: keys.until.min(latest), ..keys.clone() }));
        if rotated.older.len() < MAX_LIVE_KEYS {
            return Ok(rotated);
        }
        let next_end = self.older_live(now).map(|keys| keys.until.min(latest)).min();
        Err(RotationError::TooMany { next_end: next_end.unwrap_or(latest) })
    }

    /// The value of `webhook-signature` for an attempt at `now`: one signature for each live key of the chosen
    /// `schemes`, the newest first. `None`: no scheme of Standard Webhooks is chosen, or it has no key.
    #[must_use]
    pub fn webhook_signature(
        &self,
        schemes: &[Scheme],
        webhook_id: &str,
        now: UnixMicros,
        body: &[u8],
    ) -> Option<String> {
        let hmac = schemes.contains(&Scheme::Standard);
        let ed25519 = schemes.contains(&Scheme::Ed25519);
        let mut digits = itoa::Buffer::new();
        let timestamp = digits.format(now.seconds());
        let live = 1 + self.older_live(now).count();
        let chars = usize::from(hmac) * STANDARD_SIGNATURE_CHARS + usize::from(ed25519) * ED25519_SIGNATURE_CHARS;
        // Signatures are separated by spaces.
        let mut value = String::with_capacity(live * (chars + usize::from(hmac) + usize::from(ed25519)));
        let content = ed25519.then(|| signed_content(webhook_id, timestamp, body));
        let mut push = |standard: &StandardKey, pair: Option<&Ed25519Key>| {
            if hmac {
                separate(&mut value);
                push_standard(&mut value, standard, webhook_id, timestamp, body);
            }
            if let (Some(content), Some(pair)) = (&content, pair) {
                separate(&mut value);
                push_ed25519(&mut value, pair, content);
            }
        };
        push(&self.standard, self.ed25519.as_ref());
        for keys in self.older_live(now) {
            push(&keys.standard, keys.ed25519.as_ref());
        }
        (!value.is_empty()).then_some(value)
    }
}

fn separate(signatures: &mut String) {
    if !signatures.is_empty() {
        signatures.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::super::{
        DEFAULT_TOLERANCE_S, decnet_signature, header, standard_signature, verify_decnet, verify_ed25519,
        verify_standard,
    };
    use super::*;

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);
    const BODY: &[u8] = b"{}";
    const BOTH: [Scheme; 2] = [Scheme::Standard, Scheme::Ed25519];

    fn rotated(keys: &SigningKeys, overlap: Duration, now: UnixMicros) -> SigningKeys {
        keys.rotated(SigningKeys::generate(), overlap, now).unwrap()
    }

    fn signed(keys: &SigningKeys, now: UnixMicros) -> String {
        keys.webhook_signature(&[Scheme::Standard], "msg", now, BODY).unwrap()
    }

    fn signature(keys: &SigningKeys, now: UnixMicros) -> String {
        standard_signature(&keys.standard, "msg", now.seconds(), BODY)
    }

    #[test]
    fn without_a_rotation_there_is_one_signature_in_a_string_of_its_size() {
        let keys = SigningKeys::generate();
        let value = signed(&keys, NOW);
        assert_eq!(value, signature(&keys, NOW));
        assert_eq!((value.len(), value.capacity()), (STANDARD_SIGNATURE_CHARS, STANDARD_SIGNATURE_CHARS + 1));
        assert_eq!(keys.previous_secret(NOW), None);
        assert_eq!(keys.webhook_signature(&[Scheme::Decnet], "msg", NOW, BODY), None);
        assert_eq!(keys.webhook_signature(&[Scheme::Ed25519], "msg", NOW, BODY), None);
    }

    #[test]
    fn during_the_overlap_both_keys_sign_the_newest_first_and_after_it_one() {
        let old = SigningKeys::generate();
        let new = rotated(&old, DEFAULT_OVERLAP, NOW);
        let end = NOW.after(DEFAULT_OVERLAP);
        let last = UnixMicros(end.0 - 1);
        assert_eq!(signed(&new, last), format!("{} {}", signature(&new, last), signature(&old, last)));
        assert_eq!(new.previous_secret(last), Some(&old.decnet));
        assert_eq!(signed(&new, end), signature(&new, end));
        assert_eq!(new.previous_secret(end), None);
        assert_eq!((new.since, new.older[0].until), (Some(NOW), end));
    }

    #[test]
    fn both_versions_of_a_generation_stand_together() {
        let mut old = SigningKeys::generate();
        old.need_ed25519();
        let new = rotated(&old, HOUR, NOW);
        assert!(new.ed25519.is_some() && new.ed25519 != old.ed25519);
        let value = new.webhook_signature(&BOTH, "msg", NOW, BODY).unwrap();
        let versions: Vec<_> = value.split(' ').map(|signature| signature.split_once(',').unwrap().0).collect();
        assert_eq!(versions, ["v1", "v1a", "v1", "v1a"]);
        assert_eq!(value.capacity(), value.len() + 1);
    }

    #[test]
    fn an_overlap_is_at_most_a_week_and_none_ends_all_keys_of_before() {
        let first = SigningKeys::generate();
        let longer = MAX_OVERLAP + Duration::from_micros(1);
        let refused = first.rotated(SigningKeys::generate(), longer, NOW);
        assert_eq!(refused, Err(RotationError::Overlap { overlap: longer }));
        let second = rotated(&first, MAX_OVERLAP, NOW);
        let third = rotated(&second, Duration::ZERO, NOW);
        assert_eq!(signed(&third, NOW), signature(&third, NOW));
        assert_eq!(third.previous_secret(NOW), None);
    }

    #[test]
    fn a_rotation_to_the_same_key_is_none() {
        let keys = SigningKeys::generate();
        let same = SigningKeys::new(keys.decnet.clone(), StandardKey::generate());
        assert_eq!(keys.rotated(same, HOUR, NOW), Err(RotationError::SameSecret));
        let same = SigningKeys::new(Secret::generate(), keys.standard.clone());
        assert_eq!(keys.rotated(same, HOUR, NOW), Err(RotationError::SameStandardKey));
    }

    #[test]
    fn a_fifth_live_generation_is_refused_until_one_ends() {
        let mut keys = SigningKeys::generate();
        for hours in [3, 2, 4] {
            keys = rotated(&keys, hours * HOUR, NOW);
        }
        let end = NOW.after(2 * HOUR);
        let refused = keys.rotated(SigningKeys::generate(), HOUR, UnixMicros(end.0 - 1));
        assert_eq!(refused, Err(RotationError::TooMany { next_end: end }));
        assert!(refused.unwrap_err().to_string().contains("overlap of 0"));
        assert_eq!(rotated(&keys, HOUR, end).older.len(), 3);
        assert_eq!(rotated(&keys, Duration::ZERO, NOW).older.len(), 0);
    }

    #[test]
    fn an_overlap_moves_with_the_clock_and_one_from_the_future_is_cut_by_the_next_rotation() {
        let first = SigningKeys::generate();
        let ten_years = Duration::from_hours(24 * 3_653);
        let future = NOW.after(ten_years);
        // Set back by an hour: an hour longer. Set forward: ended, until it is set right.
        let second = rotated(&first, HOUR, NOW);
        assert_eq!(second.older_live(UnixMicros(NOW.0 - 3_600_000_000)).count(), 1);
        assert_eq!(second.older_live(future).count(), 0);
        assert_eq!(second.older_live(NOW).count(), 1);
        // Rotated while the clock was ten years ahead.
        let second = rotated(&first, HOUR, future);
        assert_eq!(second.older_live(NOW.after(MAX_OVERLAP)).count(), 1);
        let third = rotated(&second, HOUR, NOW);
        assert_eq!(third.older[1].until, NOW.after(MAX_OVERLAP));
        // At both ends of time nothing overflows.
        assert_eq!(rotated(&first, MAX_OVERLAP, UnixMicros(i64::MAX)).older_live(UnixMicros(i64::MAX)).count(), 0);
        assert_eq!(rotated(&first, MAX_OVERLAP, UnixMicros(i64::MIN)).older_live(UnixMicros(i64::MIN)).count(), 1);
    }

    /// A history of a webhook's keys: steps of time, perhaps backwards, each followed by a rotation.
    fn history() -> impl Strategy<Value = Vec<(i64, u64)>> {
        prop::collection::vec((-86_400_i64..400_000, 0..=MAX_OVERLAP.as_secs()), 1..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn no_history_leaves_too_many_keys_or_a_receiver_with_a_live_key_that_cannot_verify(history in history()) {
            let mut keys = SigningKeys::generate();
            keys.need_ed25519();
            let mut now = NOW;
            for (seconds, overlap_s) in history {
                now = UnixMicros(now.0 + seconds * 1_000_000);
                match keys.rotated(SigningKeys::generate(), Duration::from_secs(overlap_s), now) {
                    Ok(new) => {
                        prop_assert!(new.older.iter().all(|keys| keys.until.since(now) <= MAX_OVERLAP));
                        keys = new;
                    }
                    Err(RotationError::TooMany { next_end }) => {
                        prop_assert_eq!(keys.older_live(now).count(), MAX_LIVE_KEYS - 1);
                        prop_assert!(next_end > now);
                    }
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
                let live: Vec<_> = keys.older_live(now).collect();
                prop_assert!(live.len() < MAX_LIVE_KEYS);

                let mut headers = HeaderMap::new();
                let value = keys.webhook_signature(&BOTH, "msg", now, BODY).unwrap();
                prop_assert_eq!(value.split(' ').count(), 2 * (1 + live.len()));
                headers.insert(header::WEBHOOK_ID, "msg".parse().unwrap());
                headers.insert(header::WEBHOOK_TIMESTAMP, now.seconds().into());
                headers.insert(header::WEBHOOK_SIGNATURE, value.parse().unwrap());
                headers.insert(header::DECNET_SIGNATURE, decnet_signature(&keys.decnet, BODY).parse().unwrap());
                if let Some(previous) = keys.previous_secret(now) {
                    let value = decnet_signature(previous, BODY).parse().unwrap();
                    headers.insert(header::DECNET_SIGNATURE_PREVIOUS, value);
                }
                let standard = live.iter().map(|keys| &keys.standard).chain([&keys.standard]);
                for key in standard {
                    prop_assert_eq!(verify_standard(key, &headers, BODY, now, DEFAULT_TOLERANCE_S), Ok(()));
                }
                let pairs = live.iter().map(|keys| &keys.ed25519).chain([&keys.ed25519]);
                for pair in pairs.flatten() {
                    let public = pair.public();
                    prop_assert_eq!(verify_ed25519(&public, &headers, BODY, now, DEFAULT_TOLERANCE_S), Ok(()));
                }
                for secret in live.first().map(|keys| &keys.decnet).into_iter().chain([&keys.decnet]) {
                    prop_assert_eq!(verify_decnet(secret, &headers, BODY), Ok(()));
                }
            }
        }
    }
}
