//! The properties of a message of AMQP: whether the client can read them, and others instead, which it can. Pure.

/// The header of a message that the client cannot read as it came. Its text is the reason.
pub(super) const UNREADABLE_HEADER: &str = "x-postrider-unreadable";
/// The most tables and arrays of headers that stand one in another. The client has no bound, and a stack.
pub(super) const MAX_TABLE_DEPTH: usize = 16;
/// What the first of the properties is marked by, if it is there.
const FIRST_FLAG: u16 = 1 << 15;
/// The longest short text, in bytes.
const MAX_SHORT_BYTES: usize = 255;
const CUT_OFF: &str = "the properties are cut off";

/// What a property is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Headers,
    Octet,
    Timestamp,
}

/// The properties of the class `basic`, in their order.
const KINDS: [Kind; 14] = [
    Kind::Text,
    Kind::Text,
    Kind::Headers,
    Kind::Octet,
    Kind::Octet,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Timestamp,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Text,
];

/// Whether the client can read the properties; otherwise the reason why not.
pub(super) fn check_properties(properties: &[u8]) -> Result<(), &'static str> {
    let mut rest = properties;
    let flags = flags(&mut rest).ok_or(CUT_OFF)?;
    for (place, kind) in KINDS.into_iter().enumerate() {
        if flags & (FIRST_FLAG >> place) == 0 {
            continue;
        }
        match kind {
            Kind::Text => text(&mut rest, "a property is no text in UTF-8").map(drop)?,
            Kind::Headers => check_table(&mut rest, 1)?,
            Kind::Octet => skip(&mut rest, 1)?,
            Kind::Timestamp => skip(&mut rest, 8)?,
        }
    }
    if rest.is_empty() { Ok(()) } else { Err("more follows the properties") }
}

/// The same properties as the client can read them, without the headers, and with the reason as a header.
pub(super) fn properties_with_reason(properties: &[u8], reason: &str) -> Vec<u8> {
    let mut rest = properties;
    let flags = flags(&mut rest).unwrap_or_default();
    let (mut kept, mut written, mut is_whole) = (0, Vec::new(), true);
    for (place, kind) in KINDS.into_iter().enumerate() {
        let flag = FIRST_FLAG >> place;
        let is_there = is_whole && flags & flag != 0;
        let value = match kind {
            _ if !is_there => None,
            Kind::Text => short_text(&mut rest),
            Kind::Headers => long(&mut rest),
            Kind::Octet => bytes(&mut rest, 1),
            Kind::Timestamp => bytes(&mut rest, 8),
        };
        is_whole &= value.is_some() || !is_there;
        match (kind, value) {
            (Kind::Headers, _) => write_reason(reason, &mut written),
            (_, None) => continue,
            (Kind::Text, Some(text)) => lossy_short(text, &mut written),
            (Kind::Octet | Kind::Timestamp, Some(value)) => written.extend_from_slice(value),
        }
        kept |= flag;
    }
    [&kept.to_be_bytes()[..], &written].concat()
}

/// A table with the reason.
fn write_reason(reason: &str, out: &mut Vec<u8>) {
    let mut table = Vec::new();
    lossy_short(UNREADABLE_HEADER.as_bytes(), &mut table);
    table.push(b'S');
    write_long(reason.as_bytes(), &mut table);
    write_long(&table, out);
}

fn write_long(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes a short text, with � for what is no text. It may lose its end, since that is longer.
pub(super) fn lossy_short(text: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(text);
    let text = &text[..text.floor_char_boundary(MAX_SHORT_BYTES)];
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

/// Whether the client can read the table at the beginning of `rest`, which is taken from there. `depth`: of this table, from
/// 1 on.
pub(super) fn check_table(rest: &mut &[u8], depth: usize) -> Result<(), &'static str> {
    let mut inside = long(rest).ok_or(CUT_OFF)?;
    check_depth(depth)?;
    while !inside.is_empty() {
        let name = text(&mut inside, "the name of a header is no text in UTF-8")?;
        if depth == 1 && name == UNREADABLE_HEADER.as_bytes() {
            return Err("its publisher gave it the header x-postrider-unreadable");
        }
        check_value(&mut inside, depth)?;
    }
    Ok(())
}

fn check_value(rest: &mut &[u8], depth: usize) -> Result<(), &'static str> {
    let kind = bytes(rest, 1).ok_or(CUT_OFF)?;
    match kind {
        b"V" => Ok(()),
        b"t" | b"b" | b"B" => skip(rest, 1),
        b"s" | b"U" | b"u" => skip(rest, 2),
        b"I" | b"i" | b"f" => skip(rest, 4),
        b"D" => skip(rest, 5),
        b"L" | b"l" | b"d" | b"T" => skip(rest, 8),
        b"S" | b"x" => long(rest).map(drop).ok_or(CUT_OFF),
        b"F" => check_table(rest, depth + 1),
        b"A" => {
            let mut inside = long(rest).ok_or(CUT_OFF)?;
            check_depth(depth + 1)?;
            while !inside.is_empty() {
                check_value(&mut inside, depth + 1)?;
            }
            Ok(())
        }
        _ => Err("a header has a type that AMQP has not"),
    }
}

fn check_depth(depth: usize) -> Result<(), &'static str> {
    if depth > MAX_TABLE_DEPTH { Err("its headers are nested too deeply") } else { Ok(()) }
}

fn flags(rest: &mut &[u8]) -> Option<u16> {
    let (flags, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u16::from_be_bytes(*flags))
}

fn text<'a>(rest: &mut &'a [u8], wrong: &'static str) -> Result<&'a [u8], &'static str> {
    let text = short_text(rest).ok_or(CUT_OFF)?;
    std::str::from_utf8(text).map(|_| text).map_err(|_| wrong)
}

/// A short text, which is taken from `rest`.
pub(super) fn short_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first()?;
    *rest = after;
    bytes(rest, usize::from(*length))
}

/// A long text, or what is in a table.
fn long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    *rest = after;
    bytes(rest, u32::from_be_bytes(*length) as usize)
}

fn skip(rest: &mut &[u8], count: usize) -> Result<(), &'static str> {
    bytes(rest, count).map(drop).ok_or(CUT_OFF)
}

fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}
