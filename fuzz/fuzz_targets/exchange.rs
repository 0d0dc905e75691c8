//! The reading of an answer: the same in one piece and in pieces of any size, within its bounds, and a connection is kept
//! only if nothing is left on it.
//! Input: the first byte is the size of the pieces, the rest what a receiver sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::client::{AnswerReader, BodyEnd, MAX_HEAD_BYTES, Unreadable};

const MAX_BODY_BYTES: usize = 256;

fn read(bytes: &[u8], piece: usize) -> (Result<(), Unreadable>, bool, AnswerReader) {
    let mut reader = AnswerReader::of_at_most(MAX_BODY_BYTES);
    let fed = bytes.chunks(piece.max(1)).try_for_each(|piece| reader.feed(piece));
    let is_clean = reader.ends_cleanly();
    reader.close(true);
    (fed, is_clean, reader)
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let (fed, is_clean, whole) = read(bytes, bytes.len());
    let (fed_in_pieces, is_clean_in_pieces, in_pieces) = read(bytes, usize::from(*piece));
    // Whatever is no answer may be told so a few bytes earlier in pieces, and in other words.
    assert_eq!(fed.is_ok(), fed_in_pieces.is_ok());
    assert_eq!(is_clean, is_clean_in_pieces);
    assert_eq!((whole.status(), whole.end()), (in_pieces.status(), in_pieces.end()));
    assert!(whole.fields().iter().eq(in_pieces.fields().iter()));
    assert!(whole.status().is_none_or(|status| (100..1_000).contains(&status)));
    assert!(whole.status().is_none() || whole.has_begun());
    assert!(
        whole.fields().iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            <= MAX_HEAD_BYTES.max(bytes.len())
    );
    if is_clean {
        assert!(fed.is_ok() && whole.status().is_some() && whole.end() == Some(BodyEnd::Complete));
        let mut reader = AnswerReader::of_at_most(MAX_BODY_BYTES);
        reader.feed(bytes).expect("it was read before");
        reader.feed(b"H").expect("it has ended");
        assert!(!reader.ends_cleanly(), "something is left");
    }
    let (body, body_in_pieces) = (whole.into_body(), in_pieces.into_body());
    assert!(body.len() <= MAX_BODY_BYTES);
    assert_eq!(body, body_in_pieces);
});
