//! The form of a signature header's value: how it is written, and how it is read.

use super::content::{Piece, pieces};
use super::{MAX_SEPARATOR_BYTES, MAX_VALUE_PIECES, ProfileError};

/// The form of a value: items with a separator between.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) items: Vec<Item>,
    pub(super) separator: Box<str>,
}

/// One part of a value, such as `v1={signature}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) before: Box<str>,
    pub(super) slot: Slot,
    pub(super) after: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Text alone.
    None,
    Timestamp,
    Signature,
    /// The secret itself.
    Secret,
}

impl Form {
    pub(super) fn parse(template: &str, separator: &str) -> Result<Self, ProfileError> {
        // What hexadecimal digits and base64 have.
        let may_be_signature = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
        let is_sign = |c: char| matches!(c, ' '..='~') && !may_be_signature(c) && !matches!(c, '{' | '}');
        if !(1..=MAX_SEPARATOR_BYTES).contains(&separator.len()) || !separator.chars().all(is_sign) {
            return Err(ProfileError::Separator);
        }
        if let Some(found) = template.chars().find(|c| !matches!(c, ' '..='~')) {
            return Err(ProfileError::Character { field: "value", found });
        }
        let items = template.split(separator).map(Item::parse).collect::<Result<Vec<_>, _>>()?;
        let form = Self { items, separator: separator.into() };
        let signatures = form.count(Slot::Signature) + form.count(Slot::Secret);
        let is_padded = template.trim() != template;
        // The rest is for the signatures of older keys.
        let is_long = form.items.len() > MAX_VALUE_PIECES / 2;
        if signatures != 1 || form.count(Slot::Timestamp) > 1 || is_padded || is_long {
            return Err(ProfileError::Value);
        }
        Ok(form)
    }

    fn count(&self, slot: Slot) -> usize {
        self.items.iter().filter(|item| item.slot == slot).count()
    }

    pub(super) fn has_timestamp(&self) -> bool {
        self.count(Slot::Timestamp) > 0
    }

    pub(super) fn is_secret(&self) -> bool {
        self.count(Slot::Secret) > 0
    }
}

impl Item {
    fn parse(text: &str) -> Result<Self, ProfileError> {
        let mut item = Self { before: "".into(), slot: Slot::None, after: "".into() };
        for piece in pieces(text) {
            let slot = match piece {
                Piece::Text(text) if item.slot == Slot::None => {
                    item.before = text.into();
                    continue;
                }
                Piece::Text(text) => {
                    item.after = text.into();
                    continue;
                }
                Piece::Placeholder("{signature}") => Slot::Signature,
                Piece::Placeholder("{timestamp}") => Slot::Timestamp,
                Piece::Placeholder("{secret}") => Slot::Secret,
                Piece::Placeholder(found) => {
                    return Err(ProfileError::Placeholder { field: "value", found: found.to_owned() });
                }
            };
            if item.slot != Slot::None {
                return Err(ProfileError::Value);
            }
            item.slot = slot;
        }
        Ok(item)
    }

    /// What stands in the slot if `text`, without space around, has this form.
    pub(super) fn read<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(self.before.trim_start())?.strip_suffix(self.after.trim_end())
    }
}
