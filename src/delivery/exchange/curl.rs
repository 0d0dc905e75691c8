//! A request as a command line, for a shell of POSIX.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::visible::is_spelt_out;

/// The longest body that stands in the command line itself. Linux takes arguments of up to 128 KiB.
const MAX_ARGUMENT_BYTES: usize = 64 * 1024;
/// The characters in a line of base64.
const LINE_CHARS: usize = 76;
/// Fields that `curl` makes itself.
const OWN_FIELDS: [&str; 3] = ["host", "content-length", "proxy-authorization"];

/// The same request again, by `curl`. What is masked in `head` stays so. `None`: `head` is no head of a request.
pub(crate) fn command(head: &[u8], body: &[u8], is_tls: bool) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let mut line = lines.next()?.split(' ');
    let (method, target) = (line.next()?, line.next()?);
    let fields = || lines.clone().filter_map(|line| line.split_once(": "));
    let host = fields().find(|(name, _)| name.eq_ignore_ascii_case("host"))?.1;
    let url = if target.starts_with('/') {
        format!("{}://{host}{target}", if is_tls { "https" } else { "http" })
    } else {
        target.to_owned()
    };
    let mut arguments = format!("curl --globoff --path-as-is --request {} {}", quoted(method), quoted(&url));
    for (name, value) in fields() {
        if !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            // A field without a value is one that `curl` leaves out, unless a semicolon ends it.
            let field = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
            let _ = write!(arguments, " \\\n  --header {}", quoted(&field));
        }
    }
    Some(match plain(body) {
        Some(text) => format!("{arguments} \\\n  --data-raw {}", quoted(text)),
        None => format!("base64 -d <<'END' | {arguments} \\\n  --data-binary @-\n{}END", lines_of(body)),
    })
}

/// The body as it may stand between quotes: short, and of characters that a terminal shows.
fn plain(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_ARGUMENT_BYTES)?;
    (!text.contains(|character| is_spelt_out(character) && character != '\n')).then_some(text)
}

/// Between single quotes, where a shell changes nothing.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn lines_of(body: &[u8]) -> String {
    let encoded = STANDARD.encode(body);
    let mut lines = String::with_capacity(encoded.len() + encoded.len() / LINE_CHARS + 1);
    let mut rest = &*encoded;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        lines.push_str(line);
        lines.push('\n');
        rest = after;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"POST /hooks?a=it's HTTP/1.1\r\nHost: example.com:8443\r\nContent-Type: application/json\r\n\
        X-Key: \xe2\x80\xa6\r\nX-Empty: \r\nContent-Length: 2\r\n\r\n";

    #[test]
    fn a_request_is_a_command_that_a_shell_leaves_as_it_is() {
        let expected = "curl --globoff --path-as-is --request 'POST' 'https://example.com:8443/hooks?a=it'\\''s' \\\n  \
            --header 'Content-Type: application/json' \\\n  --header 'X-Key: …' \\\n  --header 'X-Empty;' \\\n  \
            --data-raw '{\"a\": \"it'\\''s\"}'";
        assert_eq!(command(HEAD, br#"{"a": "it's"}"#, true).unwrap(), expected);
    }

    #[test]
    fn what_a_terminal_would_obey_or_a_shell_not_take_goes_in_base64() {
        for body in [&b"\x1b]0;title\x07"[..], b"\xff\0", &vec![b'a'; MAX_ARGUMENT_BYTES + 1]] {
            let command = command(HEAD, body, false).unwrap();
            let (start, rest) = command.split_once('\n').unwrap();
            assert_eq!(
                start,
                "base64 -d <<'END' | curl --globoff --path-as-is --request 'POST' 'http://example.com:8443/hooks?a=it'\\''s' \\"
            );
            let (_, encoded) = rest.split_once("--data-binary @-\n").unwrap();
            let encoded = encoded.strip_suffix("END").unwrap().replace('\n', "");
            assert_eq!(STANDARD.decode(encoded).unwrap(), body);
        }
    }

    #[test]
    fn a_proxy_s_target_is_the_url_itself_and_what_is_no_request_is_none() {
        let head = b"PUT http://a.example/x HTTP/1.1\r\nHost: a.example\r\nProxy-Authorization: \xe2\x80\xa6\r\n\r\n";
        assert_eq!(
            command(head, b"", false).unwrap(),
            "curl --globoff --path-as-is --request 'PUT' 'http://a.example/x' \\\n  --data-raw ''"
        );
        assert_eq!(command(b"", b"", false), None);
        assert_eq!(command(b"POST / HTTP/1.1\r\n\r\n", b"", false), None, "without a host");
    }
}
