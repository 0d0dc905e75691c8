//! What the process uses of the machine.

/// The resources used by the process, from `/proc/self/stat` (`proc_pid_stat(5)`); `None` on other systems.
#[derive(Debug, PartialEq)]
pub(super) struct ProcessUse {
    pub(super) cpu_s: f64,
    pub(super) resident_bytes: u64,
}

impl ProcessUse {
    pub(super) fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        Self::parse(&stat, rustix::param::clock_ticks_per_second(), page_bytes)
    }

    fn parse(stat: &str, ticks_per_s: u64, page_bytes: u64) -> Option<Self> {
        // The second field is the program's name in brackets and may have spaces; the rest begins at field 3.
        let rest: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| rest.get(number - 3)?.parse::<u32>().ok();
        let ticks = f64::from(field(14)?) + f64::from(field(15)?);
        let ticks_per_s = f64::from(u32::try_from(ticks_per_s).ok()?);
        Some(Self { cpu_s: ticks / ticks_per_s, resident_bytes: u64::from(field(24)?) * page_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_process_with_an_odd_name_is_read() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 3 0 99 2000000 512 18446744073709551615 0";
        let used = ProcessUse { cpu_s: 4.0, resident_bytes: 512 * 4096 };
        assert_eq!(ProcessUse::parse(stat, 100, 4096), Some(used));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(ProcessUse::read().unwrap().resident_bytes > 100_000);
    }
}
