//! Hexadecimal digits.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends two digits for each byte, in lower case.
pub(crate) fn push(text: &mut String, bytes: &[u8]) {
    text.reserve(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The `N` bytes that twice as many digits say, of either case.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::try_from(number(pair)?).ok()?;
    }
    Some(bytes)
}

/// The number that up to eight digits say, of either case.
pub(crate) fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_digits_and_bytes_again() {
        let mut text = "x=".to_owned();
        push(&mut text, &[0, 0x1f, 0xff]);
        assert_eq!(text, "x=001fff");
        assert_eq!(decode("001Fff"), Some([0, 0x1f, 0xff]));
        assert_eq!(
            (decode::<3>("001ff"), decode::<3>("001f"), decode::<1>("0g"), decode::<1>("+1")),
            (None, None, None, None)
        );
        assert_eq!((number(b"fF10"), number(b""), number(b" 1")), (Some(0xff10), Some(0), None));
    }
}
