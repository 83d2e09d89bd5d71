//! The table of what was attacked, and what came of it.

use super::Limit;
use std::{fmt, time::Duration};

/// What was attacked, and what came of it.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

/// One attack.
pub(super) struct Row {
    pub(super) tenant: String,
    pub(super) limit: Limit,
    pub(super) what: &'static str,
    /// What stopped it.
    pub(super) stopped_by: String,
    pub(super) took: Duration,
    pub(super) neighbour: Neighbour,
    /// Why it does not hold, if it does not.
    pub(super) wrong: Option<String>,
}

/// What a neighbour noticed of an attack.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbour {
    /// Answers that they got meanwhile.
    pub(super) answers: usize,
    /// The longest that they waited for one.
    pub(super) longest: Duration,
    /// What was wrong with one.
    pub(super) wrong: Option<String>,
}

impl Report {
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether each limit held.
    pub fn held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::held)
    }
}

impl Row {
    fn held(&self) -> bool {
        self.wrong.is_none() && self.neighbour.wrong.is_none()
    }

    fn cells(&self) -> [String; 8] {
        let value = match &self.limit.lowered {
            Some(lowered) => format!("{} (tried at {lowered})", self.limit.value),
            None => self.limit.value.clone(),
        };
        let Neighbour { answers, longest, wrong } = &self.neighbour;
        let neighbour = match (wrong, answers) {
            (Some(wrong), _) => wrong.clone(),
            (None, 0) => "it was over before they called".to_owned(),
            (None, _) => format!("{answers} right answers, {:.1} ms at most", longest.as_secs_f64() * 1e3),
        };
        let held = match &self.wrong {
            Some(wrong) => format!("NO: {wrong}"),
            None if self.neighbour.wrong.is_some() => "NO: the neighbour noticed".to_owned(),
            None => "yes".to_owned(),
        };
        let took = format!("{:.1} ms", self.took.as_secs_f64() * 1e3);
        let [tenant, key, what] = [self.tenant.as_str(), self.limit.key, self.what].map(str::to_owned);
        [tenant, key, value, what, self.stopped_by.clone(), took, neighbour, held]
    }
}

const HEAD: [&str; 8] = ["tenant", "limit", "value", "attack", "stopped by", "after", "the neighbour", "held"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<[String; 8]> =
            [HEAD.map(str::to_owned)].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        for (index, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
                writeln!(f, "|{}|", rules.join("|"))?;
            }
        }
        let held = self.rows.iter().filter(|row| row.held()).count();
        write!(f, "\n{held} of {} held", self.rows.len())
    }
}
