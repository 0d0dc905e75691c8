//! A disk that fails when it is told: an ext4 in a sparse image on a loop device. The image lies in a memory file system of
//! a bounded size; while that is full, every write to a part of the disk that was never written fails.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What the host has room for: the image's own tables, which are written whole at the beginning, and so much content.
const HOST_SIZE: &str = "size=96m";
const DISK_SIZE: &str = "512M";
const BLOCK_BYTES: usize = 4_096;

/// Ends with the test.
pub(crate) struct Image {
    mounts: Mounts,
    file: PathBuf,
    folder: TempDir,
}

/// What is mounted, and the loop devices; undone in the other order.
#[derive(Default)]
struct Mounts(Vec<Undo>);

enum Undo {
    Unmount(PathBuf),
    Detach(String),
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("a text")
}

/// Whether this may mount; a test that may not is skipped, but not in CI.
fn may_mount() -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let may = rustix::process::getuid().is_root() && Path::new("/dev/loop-control").exists();
    assert!(may || !is_ci, "CI must run this as root on a machine with loop devices");
    if !may {
        println!("skipped: it takes root and a loop device");
    }
    may
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a text")
}

impl Image {
    /// `None`: it cannot be made here.
    pub(crate) fn make() -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (host, disk) = (folder.path().join("host"), folder.path().join("disk"));
        fs::create_dir(&host).and_then(|()| fs::create_dir(&disk)).expect("folders");
        let mut mounts = Mounts::default();
        run("mount", &["-t", "tmpfs", "-o", HOST_SIZE, "tmpfs", text(&host)]);
        mounts.0.push(Undo::Unmount(host.clone()));
        let image = host.join("disk.img");
        run("truncate", &["-s", DISK_SIZE, text(&image)]);
        // Its own tables lie at the beginning, so that they can be written once: a journal that fails would end it for good.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,packed_meta_blocks=1";
        run("mkfs.ext4", &["-q", "-b", "4096", "-E", options, "-J", "size=8", text(&image)]);
        let layout = run("dumpe2fs", &[text(&image)]);
        let first_free = layout.lines().find_map(|line| {
            let blocks = line.trim().strip_prefix("Free blocks: ")?;
            blocks.split('-').next()?.parse::<usize>().ok().filter(|_| blocks.contains('-'))
        });
        let mut head = vec![0; first_free.expect("there are free blocks") * BLOCK_BYTES];
        let file = File::options().read(true).write(true).open(&image).expect("the image");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).expect("it is that long");
        std::os::unix::fs::FileExt::write_all_at(&file, &head, 0).expect("the host has room for that");
        mounts.attach(&image, &disk, &["-o", "nodiscard"]);
        Some(Self { mounts, file: image, folder })
    }

    pub(crate) fn mounted_at(&self) -> &Path {
        match self.mounts.0.last() {
            Some(Undo::Unmount(path)) => path,
            _ => panic!("the disk is mounted last"),
        }
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("host/filler")
    }

    /// From now on writes fail that need room.
    pub(crate) fn fill_host(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        for length in [1 << 16, BLOCK_BYTES] {
            while file.write_all(&vec![1; length]).is_ok() {}
        }
    }

    pub(crate) fn free_host(&self) {
        fs::remove_file(self.filler()).expect("it was there");
    }

    /// Another disk with what this one has now.
    pub(crate) fn as_after_a_power_cut(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, disk) = (folder.path().join("disk.img"), folder.path().join("disk"));
        run("cp", &["--sparse=always", text(&self.file), text(&image)]);
        fs::create_dir(&disk).expect("a folder");
        let mut mounts = Mounts::default();
        mounts.attach(&image, &disk, &[]);
        Self { mounts, file: image, folder }
    }
}

impl Mounts {
    fn attach(&mut self, image: &Path, at: &Path, options: &[&str]) {
        let device = run("losetup", &["--find", "--show", text(image)]).trim().to_owned();
        self.0.push(Undo::Detach(device.clone()));
        let name = device.strip_prefix("/dev/").expect("a device");
        // Page by page: the device takes a request for done of which the host had room for a part only.
        fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "4").expect("a setting of the device");
        run("mount", &[options, &[&*device, text(at)]].concat());
        self.0.push(Undo::Unmount(at.to_owned()));
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for undo in self.0.drain(..).rev() {
            // Whoever used it may be ending still: then it goes when that has ended.
            let _ = match undo {
                Undo::Unmount(path) => Command::new("umount").arg("--lazy").arg(path).status(),
                Undo::Detach(device) => Command::new("losetup").args(["--detach", &device]).status(),
            };
        }
    }
}

/// What the kernel's cache has and the disk has, too, is read from the disk from now on.
pub(crate) fn drop_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}
