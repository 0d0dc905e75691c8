use proptest::prelude::*;

use super::*;
use crate::sources::rabbitmq::properties::{MAX_TABLE_DEPTH, UNREADABLE_HEADER};

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Head { kind, channel: [0, 1], size: payload.len() }.write(payload, &mut frame);
    frame
}

fn deliver(key: &[u8]) -> Vec<u8> {
    let tags = [&short(b"tag")[..], &7_u64.to_be_bytes(), &[0]].concat();
    frame(METHOD, &[&DELIVER[..], &tags, &short(b""), &short(key)].concat())
}

/// A header of a message, with these flags and properties.
fn header(size: u64, flags: u16, properties: &[u8]) -> Vec<u8> {
    frame(HEADER, &[&[0, 60, 0, 0], &size.to_be_bytes()[..], &flags.to_be_bytes(), properties].concat())
}

/// Headers that are nested: `depth` tables, or tables and arrays.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    (1..depth).fold(long(b""), |inside, level| {
        let is_last = level + 1 == depth;
        let name = if kind == b'F' || is_last { short(b"a") } else { Vec::new() };
        long(&[&name, &[if level == 1 { b'F' } else { kind }][..], &inside].concat())
    })
}

fn passed(bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut frames = Frames::default();
    frames.take(bytes)?;
    let mut out = vec![0; bytes.len() + 1_024];
    let count = frames.give(&mut out);
    out.truncate(count);
    assert!(!frames.has_ready());
    Ok(out)
}

/// The message that the client gets instead of one with these properties.
fn instead(flags: u16, properties: &[u8], reason: &str, kept: u16, others: [&[u8]; 2]) {
    let message = [deliver(b"orders"), header(2, flags, properties), frame(BODY, b"{}")].concat();
    let table = long(&[&short(UNREADABLE_HEADER.as_bytes()), &b"S"[..], &long(reason.as_bytes())].concat());
    let expected = header(2, kept, &[others[0], &table, others[1]].concat());
    let expected = [deliver(b"orders"), expected, frame(BODY, b"{}")].concat();
    assert_eq!(passed(&message).unwrap(), expected, "{reason}");
}

const HEADERS: u16 = 1 << 13;
const CONTENT_TYPE: u16 = 1 << 15;
const MESSAGE_ID: u16 = 1 << 7;

#[test]
fn what_the_client_can_read_comes_through_as_it_is() {
    let values = [
        &b"t\x01"[..],
        b"b\0",
        b"B\0",
        b"s\0\0",
        b"U\0\0",
        b"u\0\0",
        b"I\0\0\0\0",
        b"i\0\0\0\0",
        b"f\0\0\0\0",
        b"D\0\0\0\0\0",
        b"L\0\0\0\0\0\0\0\0",
        b"l\0\0\0\0\0\0\0\0",
        b"d\0\0\0\0\0\0\0\0",
        b"T\0\0\0\0\0\0\0\0",
        b"V",
        b"S\0\0\0\x01\xff",
        b"x\0\0\0\x01\xff",
        b"A\0\0\0\x01V",
        b"F\0\0\0\0",
    ]; // rustfmt would make a line of each
    let table: Vec<u8> = values.iter().flat_map(|value| [&short(b"name")[..], value].concat()).collect();
    let all = [&long(&table)[..], &short(b"id \xc3\xa4")].concat();
    let message = [
        deliver("orders.ä".as_bytes()),
        header(5, HEADERS | MESSAGE_ID, &all),
        frame(BODY, b"{\xce\xff"),
        frame(HEARTBEAT, b""),
        frame(BODY, b"a}"),
        deliver(b""),
        header(0, HEADERS, &nested(MAX_TABLE_DEPTH, b'F')),
        header(0, HEADERS, &nested(MAX_TABLE_DEPTH, b'A')),
    ];
    assert_eq!(passed(&message.concat()).unwrap(), message.concat());
}

#[test]
fn what_it_cannot_read_comes_through_without_headers_and_with_the_reason() {
    for kind in [b'F', b'A'] {
        for depth in [MAX_TABLE_DEPTH + 1, 3_000] {
            let deep = [&nested(depth, kind)[..], &short(b"m-1")].concat();
            let id = short(b"m-1");
            instead(HEADERS | MESSAGE_ID, &deep, "its headers are nested too deeply", HEADERS | MESSAGE_ID, [b"", &id]);
        }
    }
    let name = long(&[&short(b"\xff")[..], b"V"].concat());
    instead(HEADERS, &name, "the name of a header is no text in UTF-8", HEADERS, [b"", b""]);
    let own = long(&[&short(UNREADABLE_HEADER.as_bytes())[..], b"V"].concat());
    instead(HEADERS, &own, "its publisher gave it the header x-postrider-unreadable", HEADERS, [b"", b""]);
    let kind = long(&[&short(b"a")[..], b"?"].concat());
    instead(HEADERS, &kind, "a header has a type that AMQP has not", HEADERS, [b"", b""]);
    let lossy = short("a�".as_bytes());
    let text = [&short(b"a\xff")[..], &short(b"m-1")].concat();
    let flags = CONTENT_TYPE | HEADERS | MESSAGE_ID;
    instead(flags & !HEADERS, &text, "a property is no text in UTF-8", flags, [&lossy, &short(b"m-1")]);
    instead(CONTENT_TYPE, b"\x09short", "the properties are cut off", HEADERS, [b"", b""]);
    instead(HEADERS, b"\xff\xff\xff\xff", "the properties are cut off", HEADERS, [b"", b""]);
    instead(0, b"more", "more follows the properties", HEADERS, [b"", b""]);
}

#[test]
fn a_routing_key_that_is_no_text_is_told_with_the_message() {
    let message = [deliver(&[0xff; 255]), header(0, 0, b""), deliver(b"next"), header(0, 0, b"")].concat();
    let table = long(
        &[&short(UNREADABLE_HEADER.as_bytes()), &b"S"[..], &long(b"the routing key is no text in UTF-8")].concat(),
    );
    let expected =
        [deliver("�".repeat(85).as_bytes()), header(0, HEADERS, &table), deliver(b"next"), header(0, 0, b"")].concat();
    assert_eq!(passed(&message).unwrap(), expected);
}

#[test]
fn of_a_body_that_is_too_large_the_beginning_comes_through() {
    let next = [deliver(b"next"), header(1, 0, b""), frame(BODY, b"1")].concat();
    let body = vec![b'x'; MAX_BODY_BYTES + 1];
    let mut message = [deliver(b"orders"), header(body.len() as u64, 0, b"")].concat();
    body.chunks(100_000).for_each(|part| message.extend(frame(BODY, part)));
    message.extend(&next);
    let reason = b"the message is 16777217 bytes long, the limit is 16777216";
    let table = long(&[&short(UNREADABLE_HEADER.as_bytes()), &b"S"[..], &long(reason)].concat());
    let kept = &body[..=MAX_REJECTED_BYTES];
    let mut expected = [deliver(b"orders"), header(kept.len() as u64, HEADERS, &table)].concat();
    kept.chunks(100_000).for_each(|part| expected.extend(frame(BODY, part)));
    expected.extend(&next);
    assert!(passed(&message).unwrap() == expected);
    let whole = [deliver(b""), header(MAX_BODY_BYTES as u64, 0, b"")].concat();
    assert_eq!(passed(&whole).unwrap(), whole);
}

#[test]
fn a_server_that_sends_something_else_or_too_much_is_told() {
    let large = |size: u32| [&[BODY, 0, 1], &size.to_be_bytes()[..]].concat();
    assert_eq!(passed(&large(MAX_FRAME_BYTES - 8)).unwrap().len(), 7);
    assert_eq!(passed(&large(MAX_FRAME_BYTES - 7)), Err(FrameError::TooLarge(u64::from(MAX_FRAME_BYTES) + 1)));
    assert_eq!(passed(b"HTTP/1.1 400"), Err(FrameError::NoFrame));
    assert_eq!(passed(b"AMQP\0\0\x09\x01"), Err(FrameError::NoFrame));
    let mut wrong_end = deliver(b"a");
    *wrong_end.last_mut().unwrap() = 0;
    assert_eq!(passed(&wrong_end), Err(FrameError::NoFrame));
    assert_eq!(passed(&header(1 << 60, 0, b"")), Err(FrameError::Claimed(1 << 60)));
    let greeting =
        |table: &[u8]| frame(METHOD, &[&START, &[0, 9][..], table, &long(b"PLAIN"), &long(b"en_US")].concat());
    assert_eq!(passed(&greeting(&nested(3, b'F'))).unwrap(), greeting(&nested(3, b'F')));
    let error = passed(&greeting(&nested(300, b'F'))).unwrap_err();
    assert_eq!(error.to_string(), "the greeting of the server cannot be read: its headers are nested too deeply");
}

proptest! {
    #[test]
    fn it_does_not_matter_where_a_read_ends(cuts in prop::collection::vec(1_usize..60, 0..80), straight: bool) {
        let all = [
            deliver(b"\xffa"), header(5, CONTENT_TYPE, &short(b"\xff")), frame(BODY, b"abc"), frame(HEARTBEAT, b""),
            frame(BODY, b"de"), deliver(b"b"), header(0, HEADERS, &nested(40, b'F')),
            frame(BODY, &[b'x'; 200]), deliver(b"c"), header(1, 0, b""), frame(BODY, b"1"),
        ].concat();
        let (mut frames, mut out, mut rest) = (Frames::default(), Vec::new(), &all[..]);
        let mut cuts = cuts.into_iter();
        while !rest.is_empty() {
            let count = cuts.next().unwrap_or(rest.len()).min(rest.len());
            let through = frames.straight().min(count);
            if straight && through > 0 {
                out.extend_from_slice(&rest[..through]);
                frames.went_straight(through);
                rest = &rest[through..];
                continue;
            }
            frames.take(&rest[..count]).unwrap();
            rest = &rest[count..];
            while frames.has_ready() {
                let mut some = [0; 13];
                let given = frames.give(&mut some);
                out.extend_from_slice(&some[..given]);
            }
        }
        prop_assert_eq!(out, passed(&all).unwrap());
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 1_u8..=3) {
        let _ = passed(&bytes);
        let _ = passed(&frame(kind, &bytes));
        let _ = passed(&header(1, u16::from(kind) << 13, &bytes));
        let out = passed(&[deliver(b"a"), header(0, HEADERS, &bytes)].concat()).unwrap();
        // What comes through is what the client can read.
        prop_assert_eq!(passed(&out).is_ok(), true);
    }
}
