//! What comes over the bus: frames are the same in whatever portions they come, are written as they are read, and what is
//! published is JSON that stays the same when it is published again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::bus::event::published;
use postrider::bus::frame::{Frame, FrameReader, MAX_FRAME_BODY_BYTES, Verb, encode};
use postrider::bus::pattern;
use postrider_fuzz::NOW;
use tokio::io::AsyncReadExt as _;

/// The frames of the input and the reason of their end. The input comes in two portions.
async fn frames(input: &[u8], first_bytes: usize) -> (Vec<Frame>, Option<String>) {
    let (first, rest) = input.split_at(first_bytes.min(input.len()));
    let mut reader = FrameReader::new(first.chain(rest));
    let mut frames = Vec::new();
    loop {
        match reader.read().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let whole = frames(input, usize::MAX).await;
        // Cut at any place that the input itself chooses.
        let cut = 1 + usize::from(input.first().copied().unwrap_or_default());
        assert_eq!(frames(input, cut).await, whole);
        for frame in &whole.0 {
            check(frame).await;
        }
    });
});

async fn check(frame: &Frame) {
    let mut bytes = Vec::new();
    let written = encode(frame.verb, &frame.argument, &frame.body, &mut bytes);
    assert_eq!(written.is_ok(), !frame.argument.contains('\r'), "what was read can be written");
    if written.is_ok() {
        assert_eq!(frames(&bytes, usize::MAX).await, (vec![frame.clone()], None));
    }
    assert!(pattern::matches(">", &frame.argument));
    if frame.verb == Verb::Pub
        && let Ok(made) = published(&frame.argument, &frame.body, NOW)
    {
        let event: serde_json::Value = serde_json::from_slice(&made).expect("an event is JSON");
        assert_eq!(event["topic"].as_str(), Some(&*frame.argument));
        if made.len() <= MAX_FRAME_BODY_BYTES {
            let again = published(&frame.argument, &made, NOW).expect("an event can be published");
            let after_id = r#"{"v":1,"id":"01234567890123456789012345678901""#.len();
            assert_eq!(again[after_id..], made[after_id..], "it stays what it is");
        }
    }
}
