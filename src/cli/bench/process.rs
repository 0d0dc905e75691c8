//! What the kernel says of a process (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Clock ticks per second in `/proc/PID/stat`; a constant of Linux on all supported architectures.
const TICKS_PER_S: u64 = 100;

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub resident: u64,
    /// The most so far.
    pub peak: u64,
}

/// CPU time of a process so far, of all threads, in user and kernel mode; in steps of 10 ms.
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    Ok(cpu_fields(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 2))
}

/// As [`cpu`], of a process with its present and past children.
pub(super) fn family_cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = cpu_fields(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 4);
    for entry in fs::read_dir("/proc")?.flatten() {
        // A child that ends meanwhile is counted by its parent the next time.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if parent_field(&stat) == Some(pid) {
            sum += cpu_fields(&stat, 2);
        }
    }
    Ok(sum)
}

pub(super) fn parent(pid: u32) -> Option<u32> {
    parent_field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub(super) fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// The fields of `/proc/PID/stat` from the third on: the command's name before, in parentheses, may itself hold spaces.
fn fields(stat: &str) -> std::str::Split<'_, char> {
    stat.rsplit(") ").next().unwrap_or_default().split(' ')
}

fn parent_field(stat: &str) -> Option<u32> {
    fields(stat).nth(1)?.parse().ok()
}

/// The sum of `count` fields from the 14th on: utime and stime, then cutime and cstime of children that have ended.
fn cpu_fields(stat: &str, count: usize) -> Duration {
    let ticks: u64 = fields(stat).skip(11).take(count).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_S)
}

pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        Ok(kib * 1_024)
    };
    Ok(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let stat = "7 (a b) c) S 3 7 7 0 -1 4194560 1 0 0 0 150 50 200 100 20 0 1 0 5 6 7";
        assert_eq!(parent_field(stat), Some(3));
        assert_eq!(cpu_fields(stat, 2), Duration::from_secs(2));
        assert_eq!(cpu_fields(stat, 4), Duration::from_secs(5));
    }
}
