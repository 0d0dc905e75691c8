//! The disk's own speed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::receiver::histogram;
use crate::fit::fit;

/// The rough size that a small commit appends to the write-ahead log.
const WRITE_BYTES: usize = 8 * 1_024;

/// Appends and syncs `count` times. Returns the time of each fdatasync, in microseconds.
pub(super) fn fsync_us(folder: &Path, count: u32) -> anyhow::Result<Histogram<u64>> {
    let mut times = histogram()?;
    let path = folder.join("fsync");
    let mut file = File::create(&path)?;
    for _ in 0..count {
        file.write_all(&[0x5a; WRITE_BYTES])?;
        let began_at = Instant::now();
        file.sync_data()?;
        times.saturating_record(fit(began_at.elapsed().as_micros(), u64::MAX));
    }
    std::fs::remove_file(path)?;
    Ok(times)
}
