//! The table of the attacks and their results.

use bytesize::ByteSize;
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// The attacks and their results.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    pub(super) took: Duration,
}

/// A limit with its value as configured, and as tried.
#[derive(Clone)]
pub(super) struct Attacked {
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) tried: Option<String>,
}

/// One attack.
pub(super) struct Row {
    pub(super) tenant: String,
    pub(super) limit: Attacked,
    pub(super) what: &'static str,
    /// The refusal that stopped the attack, with its count and other figures; or the reason why the limit does not
    /// hold.
    pub(super) outcome: Result<String, String>,
    pub(super) took: Duration,
    pub(super) figures: Measured,
    pub(super) neighbour: Option<Notice>,
}

/// Figures that were measured while an attack went on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// The number of samples.
    pub(super) samples: usize,
    /// Bytes by which the process's resident memory was above that before the attack.
    pub(super) resident: Option<Figure>,
    /// Bytes of memory, as the host counts them.
    pub(super) counted: Option<Figure>,
    /// Sessions that were live; where they are attacked.
    pub(super) live: Option<Figure>,
    /// Files that guests had open, as the host counts them; where they are attacked.
    pub(super) open_files: Option<Figure>,
    /// The process's descriptors above those before; where they are attacked.
    pub(super) descriptors: Option<Figure>,
}

/// A maximum that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) seen: usize,
    /// The limit, in words.
    pub(super) limit: usize,
    /// The most that the maximum may be: the limit and the tolerance.
    pub(super) most: usize,
}

/// A neighbour's observations during an attack.
#[derive(Debug, Clone, Default)]
pub(super) struct Notice {
    /// Right answers that the neighbour got meanwhile.
    pub(super) answers: usize,
    /// Refusals by the very limit under attack, where the neighbour shares it with the attacker.
    pub(super) refused: usize,
    /// The longest wait for an answer.
    pub(super) longest: Duration,
    /// The last thing that was wrong.
    pub(super) wrong: Option<String>,
}

impl Report {
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// True if each limit held.
    pub fn held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.wrong().is_none())
    }

    /// The report as one JSON document.
    pub fn as_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::as_json).collect();
        json!({"held": self.held(), "milliseconds": milliseconds(self.took), "attacks": rows})
    }
}

impl Figure {
    fn as_json(&self) -> Value {
        json!({"most_seen": self.seen, "limit": self.limit, "most_tolerated": self.most})
    }
}

impl Measured {
    /// The figure that shows that a limit does not hold, in words.
    fn wrong(&self) -> Option<String> {
        let size = |bytes: usize| ByteSize::b(bytes as u64).to_string();
        let (Some(resident), Some(counted)) = (self.resident, self.counted) else {
            return Some("the process's memory could not be measured".to_owned());
        };
        let beyond = |figure: &Figure| figure.seen > figure.most;
        let wrong = [
            Some(resident).filter(beyond).map(|it| {
                let (seen, most) = (size(it.seen), size(it.most));
                format!("the process's memory grew by {seen}, and may by {most}")
            }),
            Some(counted)
                .filter(beyond)
                .map(|it| format!("the host counted {}, and may have {}", size(it.seen), size(it.most))),
            self.live.filter(beyond).map(|it| format!("{} sessions were live, and may be {}", it.seen, it.most)),
            self.open_files.filter(beyond).map(|it| format!("guests had {} files open, and may {}", it.seen, it.most)),
            self.descriptors
                .filter(beyond)
                .map(|it| format!("the process had {} descriptors more than before, and may {}", it.seen, it.most)),
        ];
        let wrong: Vec<String> = wrong.into_iter().flatten().collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    /// The figures, in words.
    fn told(&self) -> String {
        let size = |bytes: usize| ByteSize::b(bytes as u64);
        let told = |figure: Option<Figure>| {
            figure.map_or("?".to_owned(), |it| format!("{} of {}", size(it.seen), size(it.limit)))
        };
        let mut told = format!("+{}, counted {}", told(self.resident), told(self.counted));
        if let Some(live) = self.live {
            told += &format!("; {} live sessions", live.seen);
        }
        if let (Some(files), Some(descriptors)) = (self.open_files, self.descriptors) {
            told += &format!("; {} files, +{} descriptors", files.seen, descriptors.seen);
        }
        told
    }
}

impl Notice {
    fn told(&self) -> String {
        let refused = match self.refused {
            0 => String::new(),
            refused => format!(", {refused} refused with it"),
        };
        format!("{} right answers{refused}, {:.1} ms at most", self.answers, milliseconds(self.longest))
    }
}

impl Row {
    /// The reason why the limit does not hold, if so: from the answers, the figures, or the neighbour.
    fn wrong(&self) -> Option<String> {
        let noticed =
            self.neighbour.as_ref().and_then(|it| it.wrong.as_ref()).map(|why| format!("the neighbour: {why}"));
        let wrong: Vec<String> =
            [self.outcome.as_ref().err().cloned(), self.figures.wrong(), noticed].into_iter().flatten().collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    fn as_json(&self) -> Value {
        let wrong = self.wrong();
        let figure = |figure: Option<Figure>| figure.as_ref().map(Figure::as_json);
        json!({
            "tenant": self.tenant,
            "limit": self.limit.key,
            "value": self.limit.value,
            "tried_at": self.limit.tried,
            "attack": self.what,
            "stopped_by": self.outcome.as_ref().ok(),
            "milliseconds": milliseconds(self.took),
            "samples": self.figures.samples,
            "resident_bytes": figure(self.figures.resident),
            "counted_bytes": figure(self.figures.counted),
            "live_sessions": figure(self.figures.live),
            "open_files": figure(self.figures.open_files),
            "descriptors": figure(self.figures.descriptors),
            "neighbour": self.neighbour.as_ref().map(|it| json!({
                "answers": it.answers,
                "refused": it.refused,
                "longest_milliseconds": milliseconds(it.longest),
                "wrong": it.wrong,
            })),
            "held": wrong.is_none(),
            "wrong": wrong,
        })
    }

    fn cells(&self) -> [String; 9] {
        let value = match &self.limit.tried {
            Some(tried) => format!("{} (tried at {tried})", self.limit.value),
            None => self.limit.value.clone(),
        };
        let neighbour = self.neighbour.as_ref().map_or("nobody could get in".to_owned(), Notice::told);
        let held = self.wrong().map_or("yes".to_owned(), |wrong| format!("NO: {wrong}"));
        let took = format!("{:.1} ms", milliseconds(self.took));
        let stopped_by = self.outcome.clone().unwrap_or_else(|_| "-".to_owned());
        let [tenant, key, what] = [self.tenant.as_str(), self.limit.key, self.what].map(str::to_owned);
        [tenant, key, value, what, stopped_by, took, self.figures.told(), neighbour, held]
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

const HEAD: [&str; 9] = ["tenant", "limit", "value", "attack", "stopped by", "took", "memory", "the neighbour", "held"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<[String; HEAD.len()]> =
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
        let held = self.rows.iter().filter(|row| row.wrong().is_none()).count();
        write!(f, "\n{held} of {} attacks held, in {:.1} s", self.rows.len(), self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn figure(seen: usize, most: usize) -> Option<Figure> {
        Some(Figure { seen, limit: 6, most })
    }

    fn row(outcome: Result<String, String>, resident: Option<Figure>, wrong: Option<&str>) -> Row {
        let within = figure(1, 1);
        Row {
            tenant: "default".into(),
            limit: Attacked { key: "limits.memory", value: "1 MiB".into(), tried: None },
            what: "users take memory",
            outcome,
            took: Duration::ZERO,
            figures: Measured { samples: 1, resident, counted: within, ..Measured::default() },
            neighbour: Some(Notice { wrong: wrong.map(str::to_owned), ..Notice::default() }),
        }
    }

    #[test]
    fn all_witnesses_must_agree_that_a_limit_holds() {
        let stopped = || Ok("host_full, 1 of 2".to_owned());
        let (within, beyond) = (figure(7, 7), figure(8, 7));
        assert_eq!(row(stopped(), within, None).wrong(), None);
        for (row, why) in [
            (row(Err("not host_full, but 200".to_owned()), within, None), "not host_full, but 200"),
            (row(stopped(), beyond, None), "the process's memory grew by 8 B, and may by 7 B"),
            (row(stopped(), None, None), "the process's memory could not be measured"),
            (row(stopped(), within, Some("it waited for 2.00 s")), "the neighbour: it waited for 2.00 s"),
        ] {
            assert_eq!(row.wrong().as_deref(), Some(why));
            assert!(row.cells()[8].starts_with("NO: ") && row.as_json()["held"] == false);
            let report = Report { rows: vec![row], took: Duration::ZERO };
            assert!(!report.held() && report.to_string().ends_with("0 of 1 attacks held, in 0.0 s"));
        }
        assert!(!Report::default().held(), "where nothing was attacked, nothing held");
    }
}
