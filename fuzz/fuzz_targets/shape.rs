//! Templates and events: what is rendered keeps the limits and is JSON where it has to be; the built-in shapes make
//! something of every event.
//! Input: the event, then a template.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use postrider::event::Event;
use postrider::shape::{
    MAX_RENDER_ERROR_BYTES, MAX_SHAPED_BYTES, MAX_TEMPLATE_BYTES, Shape, ShapeError, ShapeInput, TemplateInput,
    builtins, sample,
};
use postrider_fuzz::{CONTEXT, NOW, two_parts};

/// Far beyond what a rendering takes, on a machine that others use too.
const SLOW: Duration = Duration::from_secs(5);

fn check(shape: &Shape, event: &Event) -> bool {
    let began_at = Instant::now();
    let rendered = shape.render(event, &CONTEXT);
    assert!(began_at.elapsed() < SLOW, "{} took {:?}", shape.name(), began_at.elapsed());
    match &rendered {
        Ok(body) => {
            assert!(body.len() <= MAX_SHAPED_BYTES);
            let content_type = shape.content_type();
            if content_type.as_bytes() == b"application/json" {
                assert!(serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok());
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("shape: ") && text.len() <= MAX_RENDER_ERROR_BYTES, "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(!text.contains("engine failed"), "{text}");
        }
    }
    assert_eq!(shape.render(event, &CONTEXT).ok(), rendered.as_ref().ok().cloned(), "the same each time");
    rendered.is_ok()
}

fuzz_target!(|input: &[u8]| {
    let (event, template) = two_parts(input);
    let given = Event::from_json(event, NOW).ok();
    if let Some(event) = &given {
        for builtin in builtins() {
            let shape = Shape::parse(&ShapeInput::Name(builtin.name.to_owned())).expect("a built-in shape");
            // An event that is too large for one is the exception.
            assert!(check(&shape, event) || event.body().len() > 8 * 1024, "{} of {event:?}", builtin.name);
        }
    }
    let Ok(template) = std::str::from_utf8(template) else { return };
    let event = given.unwrap_or_else(|| Event::from_json(sample().as_bytes(), NOW).expect("the sample"));
    for content_type in ["text/plain", "application/json"] {
        let input = TemplateInput { template: template.to_owned(), content_type: content_type.to_owned() };
        let input = ShapeInput::Template(input);
        match Shape::parse(&input) {
            Ok(shape) => {
                assert_eq!(shape.raw(), input);
                check(&shape, &event);
            }
            Err(ShapeError::TooLong { length }) => assert!(length > MAX_TEMPLATE_BYTES),
            Err(ShapeError::Template(error)) => {
                let lines = template.split('\n').count();
                assert!((1..=lines).contains(&error.line), "line {} of {lines}: {error}", error.line);
                assert!(!error.reason.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
    }
});
