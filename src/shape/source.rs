//! The state that the values of one rendering share: the event's text, the ends of its containers, and the fuel and time left.
//!
//! A container is read once, when a template looks into it. One pass over the text finds the bounds of all containers, so
//! that reading a container skips the content of those inside it: each byte is looked at twice, however deep it lies.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State};
use parking_lot::Mutex;

/// The most bytes of containers that one rendering turns into text without the engine's charge, which is missing if a
/// container is joined with `~`, searched or compared.
const MAX_PRINTED_BYTES: usize = 8 * 1024 * 1024;
/// Bytes for one unit of fuel, as the engine counts.
pub(super) const BYTES_PER_FUEL: usize = 64;
/// Bytes of the event that are read for one unit of fuel.
const READ_BYTES_PER_FUEL: u64 = 128;
/// The clock is read once in this many checks of the time, since reading it costs as much as the work in between.
const LOOKS_PER_CLOCK: u32 = 16;

/// The variable with the [`Source`], for filters. No template can name or hide it, since the name has a space.
pub(super) const SOURCE: &str = "event source";

/// The limits of a rendering.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) fuel: u64,
    pub(super) deadline: Instant,
}

/// The state that the values of one rendering share.
#[derive(Debug)]
pub(super) struct Source {
    /// The canonical body, validated as UTF-8 as a whole.
    text: Arc<str>,
    containers: OnceLock<Vec<Container>>,
    /// The event's spellings of numbers that would print differently, by the bits of their value.
    spellings: Mutex<HashMap<u64, Box<str>>>,
    printed_bytes: AtomicUsize,
    /// Bytes that were read, but not charged for yet, because values cannot reach the engine's fuel.
    unpaid_bytes: AtomicU64,
    /// The engine's fuel when it was last seen.
    fuel: AtomicU64,
    is_exhausted: AtomicBool,
    deadline: Instant,
    looks: AtomicU32,
    is_late: AtomicBool,
}

/// An array or an object in the text. Containers are in order of their beginnings.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) end: usize,
    /// The index of the next container that is not inside this one.
    pub(super) next: usize,
    /// The length without the containers inside.
    pub(super) own_bytes: usize,
}

impl Source {
    /// `body` is canonical JSON.
    pub(super) fn new(body: &[u8], limits: Limits) -> Self {
        Self {
            text: Arc::from(std::str::from_utf8(body).unwrap_or_default()),
            containers: OnceLock::new(),
            spellings: Mutex::default(),
            printed_bytes: AtomicUsize::new(0),
            unpaid_bytes: AtomicU64::new(0),
            fuel: AtomicU64::new(limits.fuel),
            is_exhausted: AtomicBool::new(false),
            deadline: limits.deadline,
            looks: AtomicU32::new(0),
            is_late: AtomicBool::new(false),
        }
    }

    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub(super) fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    /// Every container of the event.
    pub(super) fn containers(&self) -> Result<&[Container], Error> {
        if let Some(containers) = self.containers.get() {
            return Ok(containers);
        }
        self.pay(self.text.len())?;
        Ok(self.containers.get_or_init(|| containers(self.text.as_bytes())))
    }

    pub(super) fn note_spelling(&self, number: f64, spelling: &str) {
        self.spellings.lock().entry(number.to_bits()).or_insert_with(|| spelling.into());
    }

    pub(super) fn spelling(&self, number: f64) -> Option<Box<str>> {
        self.spellings.lock().get(&number.to_bits()).cloned()
    }

    /// Charges for bytes of the event before they are read; an error when fuel or time is used up.
    pub(super) fn pay(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let unpaid = self.unpaid_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if unpaid / READ_BYTES_PER_FUEL >= self.fuel.load(Relaxed) {
            self.is_exhausted.store(true, Relaxed);
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        self.look_at_time()
    }

    /// Charges the engine's fuel for the bytes read, and notes the rest.
    pub(super) fn settle(&self, state: &State<'_, '_>) -> Result<(), Error> {
        let unpaid = self.unpaid_bytes.load(Relaxed);
        self.unpaid_bytes.store(unpaid % READ_BYTES_PER_FUEL, Relaxed);
        state.consume_fuel(unpaid / READ_BYTES_PER_FUEL)?;
        if let Some((_, left)) = state.fuel_levels() {
            self.fuel.store(left, Relaxed);
        }
        if self.is_exhausted() {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        self.look_at_time()
    }

    /// An error once the deadline has passed.
    pub(super) fn look_at_time(&self) -> Result<(), Error> {
        if self.looks.fetch_add(1, Relaxed).is_multiple_of(LOOKS_PER_CLOCK) && Instant::now() >= self.deadline {
            self.is_late.store(true, Relaxed);
        }
        if self.is_late() { Err(Error::new(ErrorKind::InvalidOperation, "it took too long")) } else { Ok(()) }
    }

    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Relaxed)
    }

    /// Counts bytes that are turned into text or compared; `false`: beyond the limit.
    pub(super) fn may_print(&self, bytes: usize) -> bool {
        let printed = self.printed_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if printed > MAX_PRINTED_BYTES {
            self.is_exhausted.store(true, Relaxed);
        }
        printed <= MAX_PRINTED_BYTES && self.look_at_time().is_ok()
    }

    /// Whether a read or a print was cut short, so that the result must not be used.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Relaxed)
    }
}

/// The [`Source`] of the rendering under way.
pub(super) fn source(state: &State<'_, '_>) -> Option<Arc<Source>> {
    state.lookup(SOURCE)?.downcast_object::<SourceHandle>().map(|handle| Arc::clone(&handle.0))
}

/// As [`Source::settle`], of the rendering under way.
pub(super) fn settle(state: &State<'_, '_>) -> Result<(), Error> {
    source(state).map_or(Ok(()), |source| source.settle(state))
}

/// Fails if the fuel for writing `bytes` is not left.
pub(super) fn afford(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let is_affordable = state.fuel_levels().is_none_or(|(_, left)| (bytes / BYTES_PER_FUEL) as u64 <= left);
    if is_affordable { Ok(()) } else { Err(Error::from(ErrorKind::OutOfFuel)) }
}

/// Charges for work on `bytes`, as the engine does for texts.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64)
}

/// Carries the [`Source`] among the variables.
#[derive(Debug)]
pub(super) struct SourceHandle(pub(super) Arc<Source>);

impl Object for SourceHandle {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Every container of canonical JSON, in one pass.
fn containers(text: &[u8]) -> Vec<Container> {
    let (mut found, mut open, mut at) = (Vec::<Container>::new(), Vec::<(usize, usize)>::new(), 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'{' | b'[' => {
                open.push((found.len(), at));
                found.push(Container { end: text.len(), next: usize::MAX, own_bytes: 0 });
            }
            b'}' | b']' => {
                let next = found.len();
                if let Some((number, start)) = open.pop() {
                    let (end, length) = (at + 1, at + 1 - start);
                    // Until the end is found, this field sums up the bytes of the containers inside.
                    let inside = found[number].own_bytes;
                    found[number] = Container { end, next, own_bytes: length.saturating_sub(inside) };
                    if let Some((parent, _)) = open.last() {
                        found[*parent].own_bytes += length;
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Just after the closing quote of the string that begins at `start`.
pub(super) fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}
