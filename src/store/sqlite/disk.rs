//! Files as the disk has them, past the kernel's cache.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::folder::at;
use crate::store::OpenError;

/// The most bytes of one read.
pub(super) const MAX_READ_BYTES: usize = 256 << 10;
/// Direct reads need offsets in the file, and addresses in memory, that are multiples of this.
const ALIGNMENT: usize = 4_096;
/// The number of bytes with which a disk is tried.
const TRIAL_BYTES: usize = 4_096;

/// A file that is read past the page cache.
pub(super) struct DiskFile {
    file: File,
    buffer: Vec<u8>,
}

impl DiskFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open_direct(path)?, buffer: vec![0; MAX_READ_BYTES + ALIGNMENT] })
    }

    /// At most [`MAX_READ_BYTES`]; both numbers are multiples of [`ALIGNMENT`].
    pub(super) fn read(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let start = self.buffer.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut self.buffer[start..start + length];
        self.file.read_exact_at(buffer, at)?;
        Ok(buffer)
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    use rustix::io::Errno;
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    match File::options().read(true).custom_flags(flags).open(path) {
        // The file system has no direct reads. Reads after the cache was dropped must do.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            let file = File::open(path)?;
            forget(&file, 0, 0)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Drops the clean pages of a part of a file from the kernel's cache. `bytes` 0: to the end of the file.
#[cfg(target_os = "linux")]
pub(super) fn forget(file: &File, at: u64, bytes: usize) -> io::Result<()> {
    let length = std::num::NonZeroU64::new(bytes as u64);
    Ok(rustix::fs::fadvise(file, at, length, rustix::fs::Advice::DontNeed)?)
}

/// Other systems have no reads past the cache.
#[cfg(not(target_os = "linux"))]
fn open_direct(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn forget(_: &File, _: u64, _: usize) -> io::Result<()> {
    Ok(())
}

/// Fails while the disk of a folder fails.
pub(super) fn attempt_write(folder: &Path) -> Result<(), OpenError> {
    let attempt = || -> io::Result<()> {
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(&[1; TRIAL_BYTES])?;
        file.sync_all()
    };
    attempt().map_err(at(folder))
}
