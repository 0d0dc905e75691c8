//! An answer's body as its sender meant it: some compress although the request asks for `identity`.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};

/// At most `max_bytes` of the body, decompressed if that is possible. The end of a body that is cut off is missing.
pub(super) fn decoded(coding: Option<&[u8]>, body: BytesMut, max_bytes: usize) -> Bytes {
    let (coding, body) = (coding.map(<[u8]>::to_ascii_lowercase), body.freeze());
    let mut plain = Vec::new();
    let limit = max_bytes as u64;
    // An error ends what can be decoded, and what came before it is shown.
    let _ = match coding.as_deref() {
        Some(b"gzip" | b"x-gzip") => MultiGzDecoder::new(&*body).take(limit).read_to_end(&mut plain),
        Some(b"deflate") => ZlibDecoder::new(&*body).take(limit).read_to_end(&mut plain),
        _ => return body,
    };
    if plain.is_empty() { body } else { plain.into() }
}
