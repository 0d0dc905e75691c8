//! The list of webhooks that an event is owed to, as a few bytes: the differences between ascending
//! numbers as LEB128, so that a fan-out to neighbours costs a byte each.

use crate::fit::fit;
use crate::webhook::WebhookSeq;

/// Set on every byte of a number but its last.
const MORE: u8 = 0x80;

/// `webhooks` are ascending, each once, and not negative.
pub(super) fn encode(webhooks: impl Iterator<Item = WebhookSeq>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(webhooks.size_hint().0);
    let mut previous = 0;
    for WebhookSeq(seq) in webhooks {
        let mut rest = seq.abs_diff(previous);
        previous = seq;
        while rest >= u64::from(MORE) {
            bytes.push(low_bits(rest) | MORE);
            rest >>= 7;
        }
        bytes.push(low_bits(rest));
    }
    bytes
}

/// How many webhooks `bytes` list.
pub(super) fn count(bytes: &[u8]) -> u32 {
    let ends = bytes.iter().filter(|byte| *byte & MORE == 0).count();
    fit(ends, u32::MAX)
}

/// The webhooks, ascending. Bytes that do not come from [`encode`] give an arbitrary list.
pub(super) fn decode(bytes: &[u8]) -> Vec<WebhookSeq> {
    let mut webhooks = Vec::with_capacity(bytes.len());
    let (mut seq, mut difference, mut shift) = (0_i64, 0_u64, 0_u32);
    for byte in bytes {
        difference |= u64::from(byte & !MORE).checked_shl(shift).unwrap_or_default();
        shift += 7;
        if byte & MORE == 0 {
            seq = seq.wrapping_add_unsigned(difference);
            webhooks.push(WebhookSeq(seq));
            (difference, shift) = (0, 0);
        }
    }
    webhooks
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are wanted")]
fn low_bits(number: u64) -> u8 {
    number as u8 & !MORE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_comes_back(seqs in proptest::collection::btree_set(0..=i64::MAX, 0..50)) {
            let webhooks: Vec<_> = seqs.into_iter().map(WebhookSeq).collect();
            let bytes = encode(webhooks.iter().copied());
            prop_assert_eq!(count(&bytes) as usize, webhooks.len());
            prop_assert_eq!(decode(&bytes), webhooks);
        }

        #[test]
        fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn neighbours_cost_a_byte_each() {
        assert_eq!(encode((1..=1_000).map(WebhookSeq)).len(), 1_000);
    }
}
