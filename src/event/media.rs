//! Media types of bodies.

/// Whether a body of this content type is one JSON text: `application/json`, `…+json` (RFC 6839).
pub(crate) fn is_json(content_type: &str) -> bool {
    let media_type = essence(content_type).to_ascii_lowercase();
    media_type.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// Whether a body of this content type is text by its type: `text/…`, `application/xml`, `…+xml` (RFC 7303).
pub(super) fn is_text(content_type: &str) -> bool {
    let media_type = essence(content_type).to_ascii_lowercase();
    let Some((kind, subtype)) = media_type.split_once('/') else { return false };
    kind == "text" || subtype == "xml" || subtype.ends_with("+xml")
}

/// The media type without parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}
