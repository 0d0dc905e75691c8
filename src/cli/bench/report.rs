//! The figures of a run, as a table and as JSON.

use serde_json::json;

use super::super::output::{BAD, GOOD, Output, QUIET};

#[derive(Default)]
pub(super) struct Report {
    figures: Vec<Figure>,
}

/// A measured number and its target.
pub(super) struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    target: Option<Target>,
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, target: None }
    }

    pub(super) fn at_least(self, target: f64) -> Self {
        Self { target: Some(Target::AtLeast(target)), ..self }
    }

    pub(super) fn at_most(self, target: f64) -> Self {
        Self { target: Some(Target::AtMost(target)), ..self }
    }

    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        })
    }
}

impl Report {
    pub(super) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(super) fn print(&self, output: Output, is_quick: bool) -> anyhow::Result<()> {
        if output.json {
            let figures: Vec<_> = self
                .figures
                .iter()
                .map(|figure| {
                    let (at_least, at_most) = match figure.target {
                        Some(Target::AtLeast(target)) => (Some(target), None),
                        Some(Target::AtMost(target)) => (None, Some(target)),
                        None => (None, None),
                    };
                    json!({
                        "name": figure.name.trim(), "unit": figure.unit, "value": figure.value,
                        "at_least": at_least, "at_most": at_most, "met": figure.is_met(),
                    })
                })
                .collect();
            output.json(&json!({ "quick": is_quick, "figures": figures }))?;
            return Ok(());
        }
        let rows = self.figures.iter().map(|figure| {
            let target = match figure.target {
                Some(Target::AtLeast(target)) => format!("≥ {}", digits(target)),
                Some(Target::AtMost(target)) => format!("≤ {}", digits(target)),
                None => String::new(),
            };
            let verdict = match figure.is_met() {
                Some(true) => output.paint(GOOD, "met"),
                Some(false) => output.paint(BAD, "missed"),
                None => String::new(),
            };
            let value = format!("{:>10}", digits(figure.value));
            vec![figure.name.clone(), value, output.paint(QUIET, figure.unit), target, verdict]
        });
        output.table(&["figure", "     value", "unit", "target", ""], rows.collect())?;
        Ok(())
    }
}

/// A number to three significant digits or whole, with thousands apart.
fn digits(value: f64) -> String {
    if value != 0.0 && value.abs() < 10.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let whole = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(digits(0.0), "0");
        assert_eq!(digits(0.256), "0.26");
        assert_eq!(digits(23.4567), "23.5");
        assert_eq!(digits(999.6), "1,000");
        assert_eq!(digits(1_234_567.8), "1,234,568");
    }

    #[test]
    fn a_target_is_met_at_its_bound() {
        assert_eq!(Figure::new("", "", 3.0).at_most(3.0).is_met(), Some(true));
        assert_eq!(Figure::new("", "", 2.9).at_least(3.0).is_met(), Some(false));
        assert_eq!(Figure::new("", "", 3.0).is_met(), None);
    }
}
