//! What clients send to the original's server and what it does then; what it sends to them.

use postrider::bus::frame::{Frame, FrameError, FrameReader, Verb, encode};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::{Bus, Client};

const RECORDED: &str = include_str!("../../fixtures/decnet/bus_frames.jsonl");

#[derive(Deserialize)]
struct Vector {
    name: String,
    direction: String,
    send: Vec<Piece>,
    #[serde(default)]
    then_eof: bool,
    #[serde(default)]
    original: Original,
}

#[derive(Deserialize)]
struct Piece {
    hex: String,
    #[serde(default = "once")]
    repeat: usize,
}

fn once() -> usize {
    1
}

/// What the original's server did.
#[derive(Default, Deserialize)]
struct Original {
    #[serde(default)]
    connection: String,
    #[serde(default)]
    evt_seen_by_others: Vec<String>,
    #[serde(default)]
    next_frame_works: bool,
}

impl Vector {
    fn all() -> Vec<Self> {
        let vectors: Vec<Self> = RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(vectors.len(), 111);
        vectors
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |hex: &str, at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let piece = |hex: &str| (0..hex.len()).step_by(2).map(|at| byte(hex, at)).collect::<Vec<_>>();
        self.send.iter().flat_map(|Piece { hex, repeat }| piece(hex).repeat(*repeat)).collect()
    }
}

/// An event as the recording has it: without what differs each time.
fn recorded_form((topic, body): &(String, String)) -> (String, String) {
    let (front, rest) = body.split_once(r#""id":""#).unwrap();
    let (id, rest) = rest.split_at(32);
    assert!(id.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)), "{body}");
    // The type may have any kind; the time stands just before the payload.
    let (before, after) = rest.rsplit_once(r#","payload":"#).unwrap();
    let (before, ts) = before.rsplit_once(r#""ts":"#).unwrap();
    assert!(ts.parse::<f64>().unwrap() > 1.7e9, "{body}");
    (format!("EVT {topic}"), format!(r#"{front}"id":"<32 hex>{before}"ts":<now>,"payload":{after}"#))
}

/// Whether a text is the recorded one, whose middle or end may have been left out: `begin… (123 bytes) …end`.
fn is_recorded(text: &str, recorded: &str) -> bool {
    let Some((begin, rest)) = recorded.split_once("… (") else { return text == recorded };
    let (length, end) = rest.split_once(" bytes)").unwrap();
    text.len() == length.parse::<usize>().unwrap()
        && text.starts_with(begin)
        && text.ends_with(end.strip_prefix(" …").unwrap_or(end))
}

#[tokio::test]
async fn the_server_does_what_the_original_does() {
    let bus = Bus::start().await;
    let mut watcher = Client::subscribed(&bus.path, &[">"]).await;
    let mut other = Client::connect(&bus.path).await;
    let vectors = Vector::all();
    let vectors: Vec<_> = vectors.iter().filter(|vector| vector.direction == "client_to_server").collect();
    assert_eq!(vectors.len(), 76);
    for vector in vectors {
        let Vector { name, original, .. } = vector;
        let mut client = Client::connect(&bus.path).await;
        // The server may close before it has read all.
        let sent = client.send(&vector.bytes()).await;
        assert!(sent.is_ok() || original.connection == "closed", "{name}: {sent:?}");
        if vector.then_eof {
            let _ = client.writer.shutdown().await;
        }
        if original.connection == "closed" {
            client.expect_end().await;
        }
        // What the server did before it did this is over.
        let marker = format!("marker.{name}");
        let speaker = if original.next_frame_works { &mut client } else { &mut other };
        speaker.say(Verb::Pub, &marker, "").await;
        let mut seen = Vec::new();
        loop {
            let event = watcher.event().await;
            if event.0 == marker {
                break;
            }
            seen.push(recorded_form(&event));
        }
        assert_eq!(seen.len(), original.evt_seen_by_others.len(), "{name}: {seen:?}");
        for ((topic, body), recorded) in seen.iter().zip(&original.evt_seen_by_others) {
            let (recorded_topic, recorded_body) = recorded.split_once(" | ").unwrap();
            let body_shown = body.chars().take(300).collect::<String>();
            assert!(is_recorded(topic, recorded_topic), "{name}: {topic:?} instead of {recorded_topic:?}");
            assert!(is_recorded(body, recorded_body), "{name}: {body_shown} instead of {recorded_body}");
        }
        if original.connection == "open" && !original.next_frame_works {
            // The server waits for the rest, and takes it.
            let rest = if name == "half-frame" { "        " } else { "\n" };
            client.send(rest.as_bytes()).await.unwrap();
            match &**name {
                "half-frame" => assert_eq!(watcher.event().await.0, "x.y"),
                "header-endless-5000" => client.expect_end().await,
                other => panic!("{other} is new"),
            }
        }
    }
    bus.stop().await;
}

/// All frames of the bytes, and how they end.
async fn frames(bytes: &[u8], chunk_bytes: usize) -> (Vec<Frame>, Option<String>) {
    let (mut writer, reader) = tokio::io::duplex(chunk_bytes);
    let writing = async {
        // Fails after the reader has seen enough.
        let _ = writer.write_all(bytes).await;
        drop(writer);
    };
    let reading = async {
        let mut reader = FrameReader::new(reader);
        let mut frames = Vec::new();
        loop {
            match reader.read().await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(kind(&error).to_owned())),
            }
        }
    };
    tokio::join!(writing, reading).1
}

fn kind(error: &FrameError) -> &'static str {
    match error {
        FrameError::Io(_) => "failure",
        FrameError::Cut => "cut",
        FrameError::EmptyHeader => "empty",
        FrameError::LongHeader { .. } => "long header",
        FrameError::EndlessHeader => "endless",
        FrameError::NotAscii => "not ascii",
        FrameError::UnknownVerb { .. } => "verb",
        FrameError::LongBody { .. } => "long body",
        FrameError::LineBreak => "line break",
    }
}

/// What the codec alone says of a recording; all else is a sequence of frames.
fn expected_end(name: &str) -> Option<&'static str> {
    Some(match name {
        "empty-line" | "only-cr" => "empty",
        "tab-after-verb"
        | "leading-space"
        | "lower-case"
        | "lower-case-from-server"
        | "unknown-verb"
        | "unknown-from-server" => "verb",
        "non-ascii-topic" => "not ascii",
        "header-4097" => "long header",
        "header-endless-66000" => "endless",
        "pub-over-1MiB" | "length-max" | "length-max-from-server" => "long body",
        "eof-in-header"
        | "eof-in-length"
        | "eof-in-body"
        | "cut-from-server"
        | "half-frame"
        | "header-endless-5000" => "cut",
        _ => return None,
    })
}

#[tokio::test]
async fn every_recording_is_frames_or_is_refused_for_its_reason() {
    for vector in Vector::all() {
        let (name, bytes) = (&vector.name, vector.bytes());
        let (all, end) = frames(&bytes, 1 << 20).await;
        assert_eq!(end.as_deref(), expected_end(name), "{name}");
        if bytes.len() < 10_000 {
            // Whatever the portions in which they come.
            for chunk_bytes in [1, 7] {
                assert_eq!(frames(&bytes, chunk_bytes).await, (all.clone(), end.clone()), "{name} by {chunk_bytes}");
            }
        }
        let mut again = Vec::new();
        for frame in all.iter().filter(|frame| !frame.argument.contains('\r')) {
            encode(frame.verb, &frame.argument, &frame.body, &mut again).unwrap();
        }
        if end.is_none() && !["crlf", "cr-inside", "double-space", "sub-blank-pattern"].contains(&&**name) {
            assert!(again == bytes, "{name} is written as it was read");
        }
    }
}

#[tokio::test]
async fn frames_say_what_the_recordings_mean() {
    let vectors = Vector::all();
    let of = |name: &str| vectors.iter().find(|vector| vector.name == name).unwrap().bytes();
    let said = async |name: &str| {
        let (frames, _) = frames(&of(name), 64).await;
        frames.into_iter().map(|frame| (frame.verb, frame.argument.into_string(), frame.body.len())).collect::<Vec<_>>()
    };
    let frame = |verb, argument: &str, length| (verb, argument.to_owned(), length);
    assert_eq!(said("hello-no-name").await, [frame(Verb::Hello, "", 0)]);
    assert_eq!(said("hello-with-body").await, [frame(Verb::Hello, "x", 11)]);
    assert_eq!(said("sub-blank-pattern").await, [frame(Verb::Sub, "", 0)]);
    assert_eq!(said("sub-odd-pattern").await, [frame(Verb::Sub, "a b..*x>", 0)]);
    assert_eq!(said("crlf").await, [frame(Verb::Sub, "attacker.>", 0), frame(Verb::Pub, "x.y", 2)]);
    assert_eq!(said("cr-inside").await, [frame(Verb::Pub, "x.y \r z", 2)]);
    assert_eq!(said("double-space").await, [frame(Verb::Pub, "x.y", 2)]);
    assert_eq!(said("pub-topic-nul").await, [frame(Verb::Pub, "a\0b", 2)]);
    assert_eq!(said("hello-1MiB").await, [frame(Verb::Hello, "x", 1 << 20)]);
    assert_eq!(said("evt-no-topic").await, [frame(Verb::Evt, "", 144)]);
    assert_eq!(said("captured-client-bye").await, [frame(Verb::Bye, "", 0)]);
    assert_eq!(said("captured-server-bus-health").await, [frame(Verb::Evt, "system.bus.health", 188)]);
}
