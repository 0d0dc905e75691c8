//! Whether two forms of content have a content in common. If they have, a signature by one profile may pass as one of
//! another under the same key: the bodies that are signed are other people's.

use super::content::Part;

/// A set of bytes.
type Bytes = [u64; 4];

/// A form of content as a pattern over bytes.
enum Step {
    One(Bytes),
    Any(Bytes),
}

impl Step {
    fn bytes(&self) -> &Bytes {
        match self {
            Self::One(bytes) | Self::Any(bytes) => bytes,
        }
    }
}

fn set(is_in: impl Fn(u8) -> bool) -> Bytes {
    let mut bytes = [0; 4];
    for byte in (0..=u8::MAX).filter(|byte| is_in(*byte)) {
        bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    bytes
}

fn steps(content: &[Part]) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in content {
        let many = match part {
            Part::Text(text) => {
                steps.extend(text.bytes().map(|byte| Step::One(set(|other| other == byte))));
                continue;
            }
            Part::Body => {
                steps.push(Step::Any(set(|_| true)));
                continue;
            }
            Part::Timestamp => set(|byte| byte.is_ascii_digit()),
            Part::Id => set(|byte| byte.is_ascii_graphic()),
            Part::Method => set(|byte| byte.is_ascii_uppercase()),
            Part::Path => set(|byte| byte.is_ascii_graphic()),
        };
        steps.extend([Step::One(many), Step::Any(many)]);
    }
    steps
}

/// Whether some bytes are a content of both.
pub(super) fn may_coincide(one: &[Part], other: &[Part]) -> bool {
    let (one, other) = (steps(one), steps(other));
    let mut seen = vec![false; (one.len() + 1) * (other.len() + 1)];
    let mut open = vec![(0, 0)];
    while let Some((a, b)) = open.pop() {
        if a == one.len() && b == other.len() {
            return true;
        }
        if std::mem::replace(&mut seen[a * (other.len() + 1) + b], true) {
            continue;
        }
        let (step, counter) = (one.get(a), other.get(b));
        if matches!(step, Some(Step::Any(_))) {
            open.push((a + 1, b));
        }
        if matches!(counter, Some(Step::Any(_))) {
            open.push((a, b + 1));
        }
        if let (Some(step), Some(counter)) = (step, counter)
            && step.bytes().iter().zip(counter.bytes()).any(|(one, other)| one & other != 0)
        {
            // A repeated step stays, and is left above.
            let after = |at, step: &Step| if matches!(step, Step::One(_)) { at + 1 } else { at };
            open.push((after(a, step), after(b, counter)));
        }
    }
    false
}
