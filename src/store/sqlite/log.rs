//! The write-ahead log as it lies in its file, read without SQLite: which pages it has, and whether anything that was
//! committed lies behind a damage. <https://sqlite.org/fileformat2.html#the_write_ahead_log>

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::Hasher;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher13;

/// A page of the database, in its own file and in the log.
pub(super) const PAGE_BYTES: usize = 4_096;
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The first bytes of a log, whose last bit says in which order its checksums read their words.
const MAGIC: u32 = 0x377f_0682;
/// The number of commits behind a damaged frame that proves a loss. A crash can damage only the last transaction, whose
/// pages may have been written in any order.
const PROVEN_LOSS: u32 = 2;

/// The content of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// The number of frames up to the last commit.
    pub(super) frames: u32,
    /// The length of the database after the last commit, in pages.
    pub(super) database_pages: u32,
    /// The hash of each page as the last commit has it, by the page's number, from 1.
    pub(super) pages: BTreeMap<u32, u64>,
    /// The number of whole transactions behind a damaged frame. SQLite does not read them.
    pub(super) unreachable_commits: u32,
}

/// The log's file, beside the database.
pub(super) fn path(database: &Path) -> PathBuf {
    let mut path = database.to_owned().into_os_string();
    path.push("-wal");
    path.into()
}

/// The length of a log with `frames` frames, in bytes.
pub(super) fn length(frames: u32) -> u64 {
    if frames == 0 { 0 } else { HEADER_BYTES as u64 + u64::from(frames) * (FRAME_HEADER_BYTES + PAGE_BYTES) as u64 }
}

/// The hash of a page in [`Log::pages`].
pub(super) fn page_hash(page: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(page);
    hasher.finish()
}

impl Log {
    /// Reads a log through the page cache, as SQLite does; `None`: the log is empty.
    pub(super) fn read(database: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path(database)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.metadata()?.len() == 0 {
            return Ok(None);
        }
        Self::scan(BufReader::with_capacity(1 << 20, file)).map(Some)
    }

    fn scan(mut file: impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        if !read_whole(&mut file, &mut header)? {
            return Ok(Self::default());
        }
        let mut scan = Scan::begin(&header);
        let mut frame = vec![0; FRAME_HEADER_BYTES + PAGE_BYTES];
        while read_whole(&mut file, &mut frame)? {
            scan.take(&frame);
        }
        Ok(scan.log)
    }

    /// Whether the log has a committed transaction that cannot be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.unreachable_commits >= PROVEN_LOSS
    }
}

/// Fills `buffer`; `false`: the file ended before.
fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checksum(u32, u32);

impl Checksum {
    /// Reads the checksum stored at `at`.
    fn stored(bytes: &[u8], at: usize) -> Self {
        Self(word(bytes, at), word(bytes, at + 4))
    }

    fn over(self, bytes: &[u8], is_big_endian: bool) -> Self {
        let read = |word: &[u8]| {
            let word = [word[0], word[1], word[2], word[3]];
            if is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        bytes.chunks_exact(8).fold(self, |Self(one, two), pair| {
            let one = one.wrapping_add(read(&pair[..4])).wrapping_add(two);
            Self(one, two.wrapping_add(read(&pair[4..])).wrapping_add(one))
        })
    }
}

/// The state of a read of a log.
struct Scan {
    log: Log,
    is_big_endian: bool,
    /// The chain of checksums from the header is unbroken so far.
    is_whole: bool,
    /// Frames with other salts belong to an earlier log. `None`: the header is damaged, and the first frame has the
    /// salts.
    salts: Option<[u8; 8]>,
    /// The checksum up to the last frame, as stored in that frame; `None`: unknown.
    before: Option<Checksum>,
    frames: u32,
    /// Pages since the last commit.
    uncommitted: Vec<(u32, u64)>,
}

impl Scan {
    fn begin(header: &[u8]) -> Self {
        let magic = word(header, 0);
        let is_big_endian = magic & 1 == 1;
        let checksum = Checksum(0, 0).over(&header[..24], is_big_endian);
        let is_whole =
            magic & !1 == MAGIC && word(header, 8) as usize == PAGE_BYTES && checksum == Checksum::stored(header, 24);
        Self {
            log: Log::default(),
            is_big_endian,
            is_whole,
            salts: is_whole.then(|| salts(header, 16)),
            before: is_whole.then_some(checksum),
            frames: 0,
            uncommitted: Vec::new(),
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        let (number, database_pages) = (word(head, 0), word(head, 4));
        let stated = Checksum::stored(head, 16);
        let follows = *self.salts.get_or_insert(salts(head, 8)) == salts(head, 8)
            && self.before.is_some_and(|before| {
                before.over(&head[..8], self.is_big_endian).over(page, self.is_big_endian) == stated
            });
        self.before = Some(stated);
        self.frames += 1;
        self.is_whole &= follows && number > 0;
        if self.is_whole {
            self.uncommitted.push((number, page_hash(page)));
            if database_pages > 0 {
                self.log.pages.extend(self.uncommitted.drain(..));
                (self.log.frames, self.log.database_pages) = (self.frames, database_pages);
            }
        } else if follows && database_pages > 0 {
            self.log.unreachable_commits += 1;
        }
    }
}

fn salts(bytes: &[u8], at: usize) -> [u8; 8] {
    let mut salts = [0; 8];
    salts.copy_from_slice(&bytes[at..at + 8]);
    salts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;

    /// A database with a log of so many commits, which nobody has open.
    fn logged(commits: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let connection = Connection::open(&path).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE filler (bytes BLOB)").unwrap();
        for n in 1..commits {
            connection.execute("INSERT INTO filler VALUES (zeroblob(?1))", [n * 1_000]).unwrap();
        }
        drop(connection);
        (folder, path)
    }

    fn read(path: &Path) -> Log {
        Log::read(path).unwrap().unwrap()
    }

    fn damage(database: &Path, at: u64) {
        let mut bytes = fs::read(path(database)).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        fs::write(path(database), bytes).unwrap();
    }

    #[test]
    fn a_log_has_the_pages_that_a_checkpoint_copies() {
        let (_folder, database) = logged(30);
        let log = read(&database);
        assert_eq!(fs::metadata(path(&database)).unwrap().len(), length(log.frames));
        let connection = Connection::open(&database).unwrap();
        let (frames, copied): (u32, u32) =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| Ok((row.get(1)?, row.get(2)?))).unwrap();
        assert_eq!((frames, copied), (0, 0), "a truncated log has none");
        let bytes = fs::read(&database).unwrap();
        assert_eq!(bytes.len(), log.database_pages as usize * PAGE_BYTES);
        for (number, hash) in &log.pages {
            let at = (*number as usize - 1) * PAGE_BYTES;
            assert_eq!(*hash, page_hash(&bytes[at..at + PAGE_BYTES]), "page {number}");
        }
        assert!(!log.is_damaged() && log.frames > 30 && !log.pages.is_empty());
        assert_eq!(Log::read(&database).unwrap(), None);
    }

    #[test]
    fn a_log_that_ends_before_what_was_committed_is_damaged() {
        for (commits, is_damaged) in [(3, false), (4, true), (30, true)] {
            let (_folder, database) = logged(commits);
            let whole = read(&database);
            // In the first frame of the second commit: the one behind it may have been cut off, two may not.
            let first = (1..=whole.frames).find(|frames| {
                let bytes = fs::read(path(&database)).unwrap();
                let cut = usize::try_from(length(*frames)).unwrap();
                Log::scan(&bytes[..cut]).unwrap().frames > 0
            });
            damage(&database, length(first.unwrap()) + 100);
            let log = read(&database);
            assert_eq!((log.is_damaged(), Some(log.frames)), (is_damaged, first), "{commits}: {whole:?}");
        }
    }

    #[test]
    fn a_log_without_its_head_is_damaged() {
        let (_folder, database) = logged(10);
        damage(&database, 20);
        let log = read(&database);
        assert_eq!((log.frames, log.is_damaged()), (0, true));
    }

    #[test]
    fn what_is_left_of_an_earlier_log_is_no_damage() {
        let (_folder, database) = logged(30);
        let connection = Connection::open(&database).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", (), |_| Ok(())).unwrap();
        connection.execute("INSERT INTO filler VALUES (1)", ()).unwrap();
        drop(connection);
        let log = read(&database);
        assert!(log.frames > 0 && length(log.frames) < fs::metadata(path(&database)).unwrap().len());
        assert!(!log.is_damaged(), "{log:?}");
    }

    #[test]
    fn a_transaction_that_was_being_written_is_no_damage() {
        let (_folder, database) = logged(10);
        let whole = read(&database);
        let end = length(whole.frames);
        for cut in [1, 5_000, 9_000] {
            fs::OpenOptions::new().write(true).open(path(&database)).unwrap().set_len(end - cut).unwrap();
            let log = read(&database);
            assert!(log.frames < whole.frames && !log.is_damaged(), "{cut}: {log:?}");
        }
        fs::write(path(&database), b"").unwrap();
        assert_eq!(Log::read(&database).unwrap(), None);
        fs::write(path(&database), [0; 20]).unwrap();
        assert_eq!(read(&database), Log::default());
    }
}
