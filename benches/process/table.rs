//! What was found, as a table.

use std::fmt;

use crate::Plan;

/// One row: a figure of every round, and what it should be.
pub(crate) struct Finding {
    pub(crate) what: String,
    /// One of each round; empty: the base isn't there, as `beside` says.
    pub(crate) figures: Vec<f64>,
    pub(crate) unit: &'static str,
    pub(crate) wanted: Wanted,
    /// What the figure was formed of.
    pub(crate) beside: String,
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Wanted {
    fn is_reached_by(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Finding {
    /// A row whose base this machine lacks.
    pub(crate) fn without_base(what: &str, wanted: Wanted, why: &str) -> Self {
        Self {
            what: what.to_owned(),
            figures: Vec::new(),
            unit: "",
            wanted,
            beside: why.to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            figures,
            unit,
            wanted,
            beside,
        } = self;
        if figures.is_empty() {
            return write!(f, "| {what} | – | | {wanted} | – | {beside} |");
        }
        let figure = median(figures.clone());
        let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let verdict = match wanted.is_reached_by(figure) {
            true => "yes",
            false => "**no**",
        };
        write!(
            f,
            "| {what} | {}{unit} | {}–{} | {wanted}{unit} | {verdict} | {beside} |",
            digits(figure),
            digits(lowest),
            digits(highest)
        )
    }
}

/// Three figures that matter, no more.
pub(crate) fn digits(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        small if small >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.4}"),
    }
}

/// What stands above the rows.
pub(crate) fn head(plan: &Plan) -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let Plan { rounds, slice, .. } = plan;
    Ok(format!(
        "{rounds} rounds of {} ms each, {cores} cores\n\n\
         | what | median | lowest–highest | wanted | reached | of |\n|---|--:|--:|--:|---|---|",
        slice.as_millis()
    ))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which `share` of all are.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    let at = at.min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// The median of one figure over all rounds.
pub(crate) fn over<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(figure).collect())
}
