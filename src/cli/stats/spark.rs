//! Lines of blocks, and numbers that fit beside them.

/// The most blocks of a line: with what stands before it, it fits into 80 columns.
const POINTS: usize = 48;
/// From low to high. Nothing at all is a dot.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const NOTHING: char = '·';

/// As many values as fit into a line: neighbours are put together.
pub(super) fn gathered(values: &[f64], together: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let each = values.len().div_ceil(POINTS).max(1);
    values.chunks(each).map(|some| some.iter().copied().fold(0.0, &together)).collect()
}

/// A block for each value; the highest is as high as the largest value.
pub(super) fn line(values: &[f64]) -> String {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let block = |value: &f64| {
        if *value <= 0.0 {
            return NOTHING;
        }
        // The smallest block whose height the value does not exceed.
        let height = BLOCKS.iter().zip(1_u8..).find(|(_, eighths)| *value <= largest * f64::from(*eighths) / 8.0);
        height.map_or(BLOCKS[7], |(block, _)| *block)
    };
    values.iter().map(block).collect()
}

/// At most seven characters: `99999`, `123k`, `1.2M`, `45G`.
pub(super) fn compact(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    let (mut whole, mut tenths, mut units) = (count, 0, "kMGTPE".chars());
    let mut unit = 'k';
    while whole >= 1_000 {
        (tenths, whole) = (whole % 1_000 / 100, whole / 1_000);
        unit = units.next().unwrap_or(unit);
    }
    if whole < 10 { format!("{whole}.{tenths}{unit}") } else { format!("{whole}{unit}") }
}

/// In the unit in which it is no small fraction: `12/s`, `3.4/s`, `7.5/min`, `2.0/h`.
pub(super) fn rate(per_s: f64) -> String {
    let (value, unit) = match per_s {
        rate if rate <= 0.0 => return "-".to_owned(),
        rate if rate >= 0.95 => (rate, "s"),
        rate if rate * 60.0 >= 0.95 => (rate * 60.0, "min"),
        rate => (rate * 3_600.0, "h"),
    };
    if value < 9.95 { format!("{value:.1}/{unit}") } else { format!("{value:.0}/{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_high_as_its_largest_value() {
        assert_eq!(line(&[0.0, 1.0, 2.0, 4.0, 8.0]), "·▁▂▄█");
        assert_eq!(line(&[0.0, 0.001, 1e12]), "·▁█");
        assert_eq!(line(&[0.0; 3]), "···");
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[7.0]), "█");
    }

    #[test]
    fn what_is_longer_than_a_line_is_put_together() {
        let ones = vec![1.0; 60];
        assert_eq!(gathered(&ones, |a, b| a + b), vec![2.0; 30]);
        let day = gathered(&vec![1.0; 1_440], |a, b| a + b);
        assert_eq!((day.len(), day.iter().sum::<f64>()), (POINTS, 1_440.0));
        assert_eq!(gathered(&[1.0, 5.0], f64::max), [1.0, 5.0]);
        for count in 0..2_000 {
            assert!(gathered(&vec![1.0; count], f64::max).len() <= POINTS);
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0, 99_999, 100_000, 999_999, 1_234_567, 12_345_678, u64::MAX].map(compact);
        assert_eq!(shown, ["0", "99999", "100k", "999k", "1.2M", "12M", "18E"]);
        let shown = [0.0, 1234.5, 12.0, 3.44, 0.5, 0.02, 0.0005].map(rate);
        assert_eq!(shown, ["-", "1234/s", "12/s", "3.4/s", "30/min", "1.2/min", "1.8/h"]);
    }
}
