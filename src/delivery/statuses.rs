//! Lists of statuses: which answers a webhook, or the server, takes for a success, for final, or for one to be tried
//! again.

use std::fmt;
use std::str::FromStr;

use super::outcome::GONE;

/// The most items of a list.
pub const MAX_STATUS_ITEMS: usize = 64;
/// Every status that an answer can have.
pub const STATUSES: std::ops::RangeInclusive<u16> = 100..=999;

/// One item of a list: a status (`408`), a class (`4xx`) or a range (`500-503`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusSpan {
    first: u16,
    last: u16,
}

/// Why a text is no item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no status; write a number from 100 to 999, a class as 4xx, or a range as 500-503")]
pub struct StatusError(pub String);

impl StatusSpan {
    /// A single status.
    pub fn one(status: u16) -> Result<Self, StatusError> {
        if STATUSES.contains(&status) {
            return Ok(Self { first: status, last: status });
        }
        Err(StatusError(status.to_string()))
    }

    /// The status, if it is a single one.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// 410 ends a webhook: no class and no range means it, only its number does.
    fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status) && (status != GONE || self.single().is_some())
    }
}

impl FromStr for StatusSpan {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let text = text.trim();
        let wrong = || StatusError(text.chars().take(32).collect());
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let status = |text: &str| {
            let number = Some(text.trim()).filter(is_number)?.parse().ok()?;
            Self::one(number).ok()
        };
        if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
            let first = status(&format!("{class}00")).ok_or_else(wrong)?.first;
            return Ok(Self { first, last: first + 99 });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = status(first).zip(status(last)).ok_or_else(wrong)?;
        if first > last { Err(wrong()) } else { Ok(Self { first: first.first, last: last.last }) }
    }
}

impl fmt::Display for StatusSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) if first % 100 == 0 && last == first + 99 => write!(f, "{}xx", first / 100),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// A list, in order, each item once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(Vec<StatusSpan>);

impl Statuses {
    pub const EMPTY: Self = Self(Vec::new());

    #[must_use]
    pub fn new(mut spans: Vec<StatusSpan>) -> Self {
        spans.sort_unstable();
        spans.dedup();
        Self(spans)
    }

    #[must_use]
    pub fn spans(&self) -> &[StatusSpan] {
        &self.0
    }

    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|span| span.contains(status))
    }
}

/// What a list says of its statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    Success,
    Final,
    Retry,
}

impl StatusKind {
    pub const ALL: [Self; 3] = [Self::Retry, Self::Final, Self::Success];

    /// The setting with the list.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success_on",
            Self::Final => "final_on",
            Self::Retry => "retry_on",
        }
    }
}

/// The lists of a webhook, of its shape, or of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusLists {
    pub retry_on: Statuses,
    pub final_on: Statuses,
    pub success_on: Statuses,
}

impl StatusLists {
    pub fn list_mut(&mut self, kind: StatusKind) -> &mut Statuses {
        match kind {
            StatusKind::Success => &mut self.success_on,
            StatusKind::Final => &mut self.final_on,
            StatusKind::Retry => &mut self.retry_on,
        }
    }

    #[must_use]
    pub fn list(&self, kind: StatusKind) -> &Statuses {
        match kind {
            StatusKind::Success => &self.success_on,
            StatusKind::Final => &self.final_on,
            StatusKind::Retry => &self.retry_on,
        }
    }

    /// What these lists say of a status, if they do.
    #[must_use]
    pub fn kind(&self, status: u16) -> Option<StatusKind> {
        StatusKind::ALL.into_iter().find(|kind| self.list(*kind).contains(status))
    }

    /// What is wrong with these lists, and with which of them.
    pub fn check(&self) -> Result<(), (StatusKind, String)> {
        for kind in StatusKind::ALL {
            let count = self.list(kind).spans().len();
            if count > MAX_STATUS_ITEMS {
                return Err((kind, format!("has {count} items, the limit is {MAX_STATUS_ITEMS}")));
            }
        }
        if self.retry_on.spans().iter().any(|span| span.single() == Some(GONE)) {
            let reason = "410 says that the receiver is gone for good: it turns the webhook off";
            return Err((StatusKind::Retry, reason.to_owned()));
        }
        match self.conflict() {
            None => Ok(()),
            Some((status, one, other)) => {
                let reason = format!("{status} is in {} as well; a status may be in one of the lists", one.name());
                Err((other, reason))
            }
        }
    }

    /// A status that is in two of the lists, and the two.
    fn conflict(&self) -> Option<(u16, StatusKind, StatusKind)> {
        STATUSES.into_iter().find_map(|status| {
            let mut kinds = StatusKind::ALL.into_iter().filter(|kind| self.list(*kind).contains(status));
            kinds.next().zip(kinds.next()).map(|(first, second)| (status, first, second))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(text: &str) -> Statuses {
        Statuses::new(text.split(' ').map(|item| item.parse().unwrap()).collect())
    }

    #[test]
    fn numbers_classes_and_ranges_are_read_and_written() {
        for (text, first, last) in
            [("408", 408, 408), ("4xx", 400, 499), (" 500-503 ", 500, 503), ("9XX", 900, 999), ("100 - 999", 100, 999)]
        {
            assert_eq!(text.parse(), Ok(StatusSpan { first, last }), "{text}");
        }
        for (text, shown) in [("404-404", "404"), ("400-499", "4xx"), ("400-498", "400-498"), ("5xx", "5xx")] {
            assert_eq!(text.parse::<StatusSpan>().unwrap().to_string(), shown);
        }
        for text in
            ["", "99", "1000", "0xx", "10xx", "xx", "4x", "503-500", "500-", "-503", "4xx-5xx", "+408", "4.08e2"]
        {
            assert!(text.parse::<StatusSpan>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_list_has_what_it_names_and_410_by_its_number_alone() {
        let list = statuses("4xx 500-503 408");
        assert_eq!(list.spans().iter().map(ToString::to_string).collect::<Vec<_>>(), ["4xx", "408", "500-503"]);
        for (status, is_in) in [(400, true), (499, true), (410, false), (500, true), (503, true), (504, false)] {
            assert_eq!(list.contains(status), is_in, "{status}");
        }
        assert!(statuses("410").contains(410) && !statuses("400-420").contains(410));
    }

    #[test]
    fn a_status_in_two_lists_is_found() {
        let lists = |retry: &str, last: &str| StatusLists {
            retry_on: statuses(retry),
            final_on: statuses(last),
            ..StatusLists::default()
        };
        assert_eq!(lists("4xx", "409 500").conflict(), Some((409, StatusKind::Retry, StatusKind::Final)));
        assert_eq!(lists("400-408", "409-499").conflict(), None);
        assert_eq!(lists("4xx", "410").conflict(), None, "no class means 410");
        assert_eq!(lists("408", "409").kind(409), Some(StatusKind::Final));
        assert_eq!(lists("408", "409").kind(410), None);
    }
}
