//! Tables of what was measured: a row a workload, a column a library, and what the row says of Parley.
//!
//! The best peer of a row has a star. A row in which Parley is behind a peer says so, whether it has a bound or not.

use std::fmt::Write as _;

use super::run::{Run, Sample};
use super::targets::{self, Against, TARGETS, Target};
use super::{is_ours, is_reference};

/// Ratios are compared as they are printed, with two digits.
fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

/// How a row stands to one bound of its own, or to the best peer if it has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub group: String,
    pub row: String,
    /// Our column, and the one that it is compared with.
    pub ours: String,
    pub theirs: String,
    pub ratio: f64,
    /// What the ratio may be, if there is a bound.
    pub at_most: Option<f64>,
}

impl Verdict {
    fn new(ours: &Sample, theirs: &Sample, at_most: Option<f64>) -> Self {
        Self {
            group: ours.group.clone(),
            row: ours.row.clone(),
            ours: ours.library.clone(),
            theirs: theirs.library.clone(),
            ratio: rounded(ours.median() / theirs.median()),
            at_most,
        }
    }

    /// Whether the bound holds; without one there is nothing to hold.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.at_most.is_none_or(|at_most| self.ratio <= at_most)
    }

    /// Whether another library does better.
    #[must_use]
    pub fn is_behind_a_peer(&self) -> bool {
        !is_reference(&self.theirs) && self.ratio > 1.0
    }

    fn text(&self) -> String {
        let mut text = format!("{:.2}x {}", self.ratio, self.theirs);
        match self.at_most {
            Some(at_most) if self.is_met() => _ = write!(text, ", at most {at_most:.2}: met"),
            Some(at_most) => _ = write!(text, ", at most {at_most:.2}: SHORT by {:.2}x", self.ratio / at_most),
            None => {}
        }
        if self.is_behind_a_peer() {
            text.push_str(", BEHIND A PEER");
        }
        text
    }
}

/// One workload, with all its columns.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub group: &'a str,
    pub name: &'a str,
    samples: &'a [Sample],
}

impl<'a> Row<'a> {
    pub fn samples(self) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.group == self.group && sample.row == self.name)
    }

    #[must_use]
    pub fn sample(self, library: &str) -> Option<&'a Sample> {
        self.samples().find(|sample| sample.library == library)
    }

    /// The cheapest of the other libraries that do what the row is about: none that has a mark.
    #[must_use]
    pub fn best_peer(self) -> Option<&'a Sample> {
        let peers = self
            .samples()
            .filter(|sample| sample.mark.is_none() && !is_ours(&sample.library) && !is_reference(&sample.library));
        peers.min_by(|one, other| one.median().total_cmp(&other.median()))
    }

    /// The column that stands for Parley where no bound names another.
    fn ours(self) -> Option<&'a Sample> {
        self.sample("parley").or_else(|| self.samples().find(|sample| is_ours(&sample.library)))
    }

    /// How it stands to each of its bounds; without any, to the best peer, or to what it has for comparison.
    #[must_use]
    pub fn verdicts(self) -> Vec<Verdict> {
        let bounds: Vec<_> = targets::of(self.group, self.name).filter_map(|target| self.judged(target)).collect();
        if !bounds.is_empty() {
            return bounds;
        }
        let theirs = self.best_peer().or_else(|| self.samples().find(|sample| is_reference(&sample.library)));
        match (self.ours(), theirs) {
            (Some(ours), Some(theirs)) => vec![Verdict::new(ours, theirs, None)],
            _ => Vec::new(),
        }
    }

    fn judged(self, target: &Target) -> Option<Verdict> {
        let theirs = match target.against {
            Against::BestPeer => self.best_peer(),
            Against::Column(name) => self.sample(name),
        };
        Some(Verdict::new(self.sample(target.ours)?, theirs?, Some(target.at_most)))
    }
}

/// What several programs have measured.
pub struct Report {
    /// The runs in the profile that the figures are quoted from, and those without link-time optimisation.
    pub runs: Vec<Run>,
    pub without_lto: Vec<Run>,
}

impl Report {
    #[must_use]
    pub fn new(runs: Vec<Run>) -> Self {
        let (runs, without_lto) = runs.into_iter().partition(|run| run.profile != "nolto");
        Self { runs, without_lto }
    }

    /// All rows, in the order in which they were measured.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        self.runs.iter().flat_map(rows).collect()
    }

    /// Everything as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            head(&mut text, run);
            let rows = rows(run);
            let mut groups: Vec<_> = rows.iter().map(|row| row.group).collect();
            groups.dedup();
            for group in groups {
                table(&mut text, group, rows.iter().copied().filter(|row| row.group == group));
            }
        }
        for without in &self.without_lto {
            if let Some(with) = self.runs.iter().find(|with| with.program == without.program) {
                lto_table(&mut text, with, without);
            }
        }
        self.summary(&mut text);
        text
    }

    fn summary(&self, text: &mut String) {
        let verdicts: Vec<_> = self.rows().into_iter().flat_map(Row::verdicts).collect();
        let bounds: Vec<_> = verdicts.iter().filter(|verdict| verdict.at_most.is_some()).collect();
        let met = bounds.iter().filter(|verdict| verdict.is_met()).count();
        _ = writeln!(text, "\ntargets met: {met} of {}", bounds.len());
        let excess = |verdict: &Verdict| verdict.ratio / verdict.at_most.unwrap_or(1.0);
        if let Some(worst) = bounds.iter().max_by(|one, other| excess(one).total_cmp(&excess(other))) {
            let by = excess(worst);
            _ = writeln!(
                text,
                "closest to its bound, or furthest beyond: {} / {}, {by:.2}x of it",
                worst.group, worst.row
            );
        }
        for verdict in bounds.iter().filter(|verdict| !verdict.is_met()) {
            _ = writeln!(text, "short: {} / {}: {}", verdict.group, verdict.row, verdict.text());
        }
        for verdict in verdicts.iter().filter(|verdict| verdict.is_behind_a_peer() && verdict.is_met()) {
            _ = writeln!(text, "behind: {} / {}: {}", verdict.group, verdict.row, verdict.text());
        }
        for target in TARGETS {
            let measured = |row: &Row<'_>| (row.group, row.name) == (target.group, target.row);
            let run = self.runs.iter().any(|run| run.samples.iter().any(|sample| sample.group == target.group));
            if run && !self.rows().iter().any(|row| measured(row) && row.judged(target).is_some()) {
                _ = writeln!(text, "not measured: {} / {}", target.group, target.row);
            }
        }
    }
}

/// The rows of a run, in the order of their first samples.
fn rows(run: &Run) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for sample in &run.samples {
        if !rows.iter().any(|row| (row.group, row.name) == (&sample.group, &sample.row)) {
            rows.push(Row { group: &sample.group, name: &sample.row, samples: &run.samples });
        }
    }
    rows
}

fn head(text: &mut String, run: &Run) {
    let machine = &run.machine;
    _ = writeln!(
        text,
        "\n== {} ({}{}): {}, {} cores, {}; {}; {}",
        run.program,
        run.profile,
        if run.quick { ", quick" } else { "" },
        machine.cpu,
        machine.cores,
        machine.kernel,
        run.rustc,
        run.date,
    );
    let versions: Vec<_> = run.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    _ = writeln!(text, "   {}", versions.join(", "));
}

/// The columns of some rows, in the order in which they appear first: ours, what there is for comparison, the peers.
fn columns<'a>(rows: impl Iterator<Item = Row<'a>>) -> Vec<&'a str> {
    let mut columns: Vec<&str> = Vec::new();
    for sample in rows.flat_map(Row::samples) {
        if !columns.contains(&sample.library.as_str()) {
            columns.push(&sample.library);
        }
    }
    columns.sort_by_key(|name| (!is_ours(name), !is_reference(name)));
    columns
}

/// A name in two lines, cut behind its first hyphen.
fn in_two(name: &str) -> (&str, &str) {
    match name.find('-') {
        Some(at) => name.split_at(at + 1),
        None => ("", name),
    }
}

fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn table<'a>(text: &mut String, group: &str, rows: impl Iterator<Item = Row<'a>> + Clone) {
    let columns = columns(rows.clone());
    let first = rows.clone().map(|row| row.name.chars().count()).max().unwrap_or(0).max(group.len() + 5);
    let widths: Vec<_> = columns
        .iter()
        .map(|name| {
            let (upper, lower) = in_two(name);
            let figures = rows.clone().filter_map(|row| row.sample(name)).map(|sample| figure(sample.median()).len());
            upper.len().max(lower.len()).max(figures.max().unwrap_or(0) + 1)
        })
        .collect();

    let unit = rows.clone().flat_map(Row::samples).next().map_or("", |sample| sample.unit.as_str());
    _ = write!(text, "\n{:first$}", "");
    for (name, width) in columns.iter().zip(&widths) {
        _ = write!(text, "  {:>width$}", in_two(name).0);
    }
    _ = write!(text, "\n{:first$}", format!("{group} [{unit}]"));
    for (name, width) in columns.iter().zip(&widths) {
        _ = write!(text, "  {:>width$}", in_two(name).1);
    }
    text.push('\n');
    let mut marks = Vec::new();
    for row in rows {
        _ = write!(text, "{:first$}", row.name);
        let best = row.best_peer().map(|sample| &sample.library);
        for (name, width) in columns.iter().zip(&widths) {
            let cell = row.sample(name).map(|sample| {
                marks.extend(&sample.mark);
                let star = if Some(&sample.library) == best { "*" } else { sample.mark.as_deref().unwrap_or("") };
                format!("{}{star}", figure(sample.median()))
            });
            _ = write!(text, "  {:>width$}", cell.as_deref().unwrap_or("-"));
        }
        let verdicts: Vec<_> = row.verdicts().iter().map(Verdict::text).collect();
        _ = writeln!(text, "  {}", verdicts.join("; "));
    }
    if marks.iter().any(|mark| *mark == "w") {
        text.push_str("(w: one write call a message, whatever the caller asks for, so that it is no peer in a row about batches)\n");
    }
}

/// What each column loses without link-time optimisation: how much of its figure with it the median is.
fn lto_table(text: &mut String, with: &Run, without: &Run) {
    _ = writeln!(text, "\n{}: figures without link-time optimisation, as a ratio to those with it", with.program);
    let rows = rows(with);
    let columns = columns(rows.iter().copied());
    let first = rows.iter().map(|row| row.name.chars().count() + row.group.len() + 2).max().unwrap_or(0);
    let widths: Vec<_> = columns.iter().map(|name| in_two(name).0.len().max(in_two(name).1.len()).max(5)).collect();
    for upper in [true, false] {
        _ = write!(text, "{:first$}", "");
        for (name, width) in columns.iter().zip(&widths) {
            let (one, other) = in_two(name);
            _ = write!(text, "  {:>width$}", if upper { one } else { other });
        }
        text.push('\n');
    }
    let others = self::rows(without);
    let mut worst: Option<(f64, String)> = None;
    for row in rows {
        let Some(other) = others.iter().find(|other| (other.group, other.name) == (row.group, row.name)) else {
            continue;
        };
        let name = format!("{}: {}", row.group, row.name);
        _ = write!(text, "{name:first$}");
        for (column, width) in columns.iter().zip(&widths) {
            let ratio = row.sample(column).zip(other.sample(column)).map(|(with, without)| {
                let ratio = rounded(without.median() / with.median());
                if is_ours(column) && worst.as_ref().is_none_or(|(worst, _)| ratio > *worst) {
                    worst = Some((ratio, format!("{column} in {name}")));
                }
                format!("{ratio:.2}")
            });
            _ = write!(text, "  {:>width$}", ratio.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
    if let Some((ratio, where_)) = worst {
        let verdict = if ratio <= 1.1 { "met" } else { "SHORT" };
        _ = writeln!(text, "ours loses most: {ratio:.2}x, {where_}; at most 1.10: {verdict}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(profile: &str, figures: &[(&str, &str, &str, f64)]) -> Run {
        let mut run = Run::start("memory", false);
        run.profile = profile.to_owned();
        for (group, row, library, value) in figures {
            run.add(Sample {
                group: (*group).to_owned(),
                row: (*row).to_owned(),
                library: (*library).to_owned(),
                unit: "ns".to_owned(),
                values: vec![*value],
                mark: None,
            });
        }
        run
    }

    const SMALL: &str = "server, text 8-125 B";

    #[test]
    fn the_bound_decides_and_the_best_peer_is_found() {
        let figures = [
            ("receive", SMALL, "parley", 30.0),
            ("receive", SMALL, "parley-proto", 1.0),
            ("receive", SMALL, "memcpy", 1.0),
            ("receive", SMALL, "yawc", 100.0),
            ("receive", SMALL, "tungstenite", 80.0),
        ];
        let report = Report::new(vec![run("lto", &figures)]);
        let verdicts = report.rows()[0].verdicts();
        assert_eq!(verdicts.len(), 1);
        assert_eq!((verdicts[0].theirs.as_str(), verdicts[0].ratio), ("tungstenite", 0.38));
        assert!(verdicts[0].is_met() && !verdicts[0].is_behind_a_peer());
        let text = report.text();
        assert!(text.contains("80.0*"), "{text}");
        assert!(text.contains("targets met: 1 of 1"), "{text}");
        assert!(text.contains("not measured: receive / client, JSON 100-200 B"), "{text}");
        assert!(!text.contains("not measured: send"), "{text}");
    }

    #[test]
    fn a_row_that_is_short_or_behind_is_marked() {
        let figures = [
            ("receive", SMALL, "parley", 88.0),
            ("receive", SMALL, "tungstenite", 80.0),
            ("receive", "server, text 1 KiB CJK", "parley", 101.0),
            ("receive", "server, text 1 KiB CJK", "yawc", 100.0),
        ];
        let text = Report::new(vec![run("lto", &figures)]).text();
        assert!(text.contains("1.10x tungstenite, at most 0.40: SHORT by 2.75x, BEHIND A PEER"), "{text}");
        assert!(text.contains("behind: receive / server, text 1 KiB CJK: 1.01x yawc, BEHIND A PEER"), "{text}");
        assert!(text.contains("targets met: 0 of 1"), "{text}");
    }

    #[test]
    fn who_does_not_do_what_the_row_is_about_is_no_peer() {
        let row = "server, 128 B, flush by 64";
        let mut run = run("lto", &[("send", row, "parley", 10.0), ("send", row, "sockudo-ws", 30.0)]);
        run.add(Sample { library: "web-socket".to_owned(), mark: Some("w".to_owned()), ..run.samples[1].clone() });
        run.samples[2].values = vec![20.0];
        let report = Report::new(vec![run]);
        assert_eq!(report.rows()[0].best_peer().map(|sample| sample.library.as_str()), Some("sockudo-ws"));
        assert!(report.text().contains("20.0w"), "{}", report.text());
    }

    #[test]
    fn a_reference_is_what_a_row_without_peers_is_compared_with() {
        let figures = [("mask", "64 KiB", "parley", 2.0), ("mask", "64 KiB", "memcpy", 1.0)];
        let report = Report::new(vec![run("lto", &figures)]);
        let verdicts = report.rows()[0].verdicts();
        assert_eq!((verdicts[0].ratio, verdicts[0].is_behind_a_peer()), (2.0, false));
    }

    #[test]
    fn what_is_lost_without_link_time_optimisation_is_shown() {
        let with = run("lto", &[("receive", SMALL, "parley", 30.0), ("receive", SMALL, "yawc", 80.0)]);
        let without = run("nolto", &[("receive", SMALL, "parley", 36.0), ("receive", SMALL, "yawc", 160.0)]);
        let text = Report::new(vec![with, without]).text();
        assert!(
            text.contains("ours loses most: 1.20x, parley in receive: server, text 8-125 B; at most 1.10: SHORT"),
            "{text}"
        );
    }
}
