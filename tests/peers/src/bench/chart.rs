//! The chart of the README: for each row what Parley and the others cost, as multiples of the cheapest other library.
//!
//! The axis is logarithmic, so that half and double are equally far from one. Every row that has a peer is drawn; the best peer stands
//! at 1, and Parley left of it or, in another colour and shape, right of it. Other libraries that would stand beyond the right end are
//! drawn there, hollow; Parley never is.

use std::fmt::Write as _;

use super::report::{Report, Row};
use super::targets::{self, Against};
use super::{is_ours, is_reference};

/// Colours by what they are for.
struct Theme {
    paper: &'static str,
    ink: &'static str,
    muted: &'static str,
    grid: &'static str,
    peer: &'static str,
    ahead: &'static str,
    behind: &'static str,
}

const LIGHT: Theme = Theme {
    paper: "#ffffff",
    ink: "#1f2328",
    muted: "#59636e",
    grid: "#d8dee4",
    peer: "#8c959f",
    ahead: "#0969da",
    behind: "#bc4c00",
};

const DARK: Theme = Theme {
    paper: "#0d1117",
    ink: "#f0f6fc",
    muted: "#9198a1",
    grid: "#2f353d",
    peer: "#6e7681",
    ahead: "#58a6ff",
    behind: "#f0883e",
};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// The plot's left and right end; names stand left of it, figures right.
const LEFT: f64 = 262.0;
const RIGHT: f64 = 724.0;
const ROW: f64 = 21.0;
const GROUP: f64 = 34.0;
/// Characters in a line of the footer.
const LINE: usize = 165;

/// What the groups are called in the chart, in the order in which they are drawn; others follow by their own names.
const GROUPS: &[(&str, &str)] =
    &[("receive", "Receiving, in memory"), ("send", "Sending, in memory"), ("mask", "Masking alone")];

/// The chart for a light page, and for a dark one.
#[must_use]
pub fn charts(report: &Report) -> (String, String) {
    (draw(report, &LIGHT), draw(report, &DARK))
}

/// A power of two at each end.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    /// Around all of ours and all bounds; others may lie beyond the right end.
    fn around(rows: &[Drawn<'_>]) -> Self {
        let ours = rows.iter().flat_map(|row| [Some(row.ours), row.bound].into_iter().flatten());
        let (mut low, mut high) = (-1, 2);
        for ratio in ours {
            low = low.min(ratio.log2().floor() as i32);
            high = high.max(ratio.log2().ceil() as i32);
        }
        Self { low, high }
    }

    fn x(&self, ratio: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        LEFT + (ratio.log2() - low) / (high - low) * (RIGHT - LEFT)
    }

    fn holds(&self, ratio: f64) -> bool {
        ratio.log2() <= f64::from(self.high)
    }
}

/// One row, in multiples of its best peer.
struct Drawn<'a> {
    row: Row<'a>,
    best: &'a str,
    cost: String,
    ours: f64,
    others: Vec<f64>,
    bound: Option<f64>,
}

impl<'a> Drawn<'a> {
    fn new(row: Row<'a>) -> Option<Self> {
        let (ours, best) = (row.sample("parley")?, row.best_peer()?);
        let unit = best.median();
        let others = row.samples().filter(|sample| !is_ours(&sample.library) && !is_reference(&sample.library));
        let mut bounds = targets::of(row.group, row.name);
        let bound = bounds.find(|target| target.ours == "parley" && target.against == Against::BestPeer);
        Some(Self {
            row,
            best: &best.library,
            cost: amount(ours.median(), &ours.unit),
            ours: ours.median() / unit,
            others: others.filter(|sample| sample.mark.is_none()).map(|sample| sample.median() / unit).collect(),
            bound: bound.map(|target| target.at_most),
        })
    }
}

/// "76 ns", "6.4 µs", "1.5 KiB".
fn amount(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "ns" if value >= 1e6 => (value / 1e6, "ms"),
        "ns" if value >= 1e3 => (value / 1e3, "µs"),
        "B" if value >= 1024.0 => (value / 1024.0, "KiB"),
        unit => (value, unit),
    };
    let digits = if value < 10.0 { 1 } else { 0 };
    format!("{value:.digits$} {unit}")
}

fn draw(report: &Report, theme: &Theme) -> String {
    let rows: Vec<_> = report.rows().into_iter().filter_map(Drawn::new).collect();
    let mut groups: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    for row in &rows {
        if !groups.contains(&row.row.group) {
            groups.push(row.row.group);
        }
    }
    groups.retain(|group| rows.iter().any(|row| row.row.group == *group));
    let axis = Axis::around(&rows);
    let footer = footer(report);

    const TOP: f64 = 106.0;
    let bottom = TOP + groups.len() as f64 * GROUP + rows.len() as f64 * ROW + 6.0;
    let height = bottom + 40.0 + footer.len() as f64 * 15.0 + 12.0;

    let mut svg = String::new();
    _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif" font-size="12.5" role="img">"#
    );
    let ahead = rows.iter().filter(|row| row.ours <= 1.0).count();
    _ = writeln!(
        svg,
        "<title>What Parley costs beside other WebSocket libraries for Rust: {ahead} of {} rows cheaper than every one of them</title>",
        rows.len()
    );
    _ = writeln!(svg, r#"<rect width="100%" height="100%" rx="8" fill="{}"/>"#, theme.paper);
    text(&mut svg, MARGIN, 36.0, theme.ink, r#"font-size="18" font-weight="600""#, "What a message costs");
    let subtitle = "As a multiple of what the cheapest other library takes in the same row: less is better, the axis is logarithmic";
    text(&mut svg, MARGIN, 57.0, theme.muted, "", subtitle);
    legend(&mut svg, theme, 82.0);

    for power in axis.low..=axis.high {
        let ratio = f64::from(power).exp2();
        let x = axis.x(ratio);
        let (colour, width) = if power == 0 { (theme.muted, 1.5) } else { (theme.grid, 1.0) };
        _ = writeln!(
            svg,
            r#"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        );
        let label = if power < 0 { format!("1/{}×", (1_u32 << -power)) } else { format!("{}×", 1_u32 << power) };
        text(&mut svg, x, bottom + 17.0, theme.muted, r#"text-anchor="middle""#, &label);
    }
    text(
        &mut svg,
        axis.x(1.0),
        bottom + 32.0,
        theme.muted,
        r#"text-anchor="middle" font-size="11""#,
        "best other library",
    );

    let small = r#"font-size="11""#;
    text(&mut svg, RIGHT + 16.0, TOP + 10.0, theme.muted, small, "ratio");
    text(&mut svg, RIGHT + 60.0, TOP + 10.0, theme.muted, small, "to the cheapest");
    text(&mut svg, WIDTH - MARGIN, TOP + 10.0, theme.muted, r#"font-size="11" text-anchor="end""#, "Parley");

    let mut y = TOP;
    for group in groups {
        y += GROUP;
        let name = GROUPS.iter().find(|(key, _)| *key == group).map_or(group, |(_, name)| name);
        text(&mut svg, MARGIN, y - 9.0, theme.ink, r#"font-weight="600""#, name);
        for row in rows.iter().filter(|row| row.row.group == group) {
            draw_row(&mut svg, theme, &axis, row, y + ROW / 2.0);
            y += ROW;
        }
    }
    for (number, line) in footer.iter().enumerate() {
        text(&mut svg, MARGIN, bottom + 56.0 + 15.0 * number as f64, theme.muted, r#"font-size="11""#, line);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_row(svg: &mut String, theme: &Theme, axis: &Axis, row: &Drawn<'_>, y: f64) {
    let base = y + 4.3;
    text(svg, MARGIN, base, theme.ink, "", row.row.name);
    let x = axis.x(row.ours);
    let colour = if row.ours <= 1.0 { theme.ahead } else { theme.behind };
    _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{y:.1}" x2="{x:.1}" y2="{y:.1}" stroke="{colour}" stroke-width="3"/>"#,
        axis.x(1.0)
    );
    for ratio in &row.others {
        if axis.holds(*ratio) {
            _ = writeln!(svg, r#"<circle cx="{:.1}" cy="{y:.1}" r="3.2" fill="{}"/>"#, axis.x(*ratio), theme.peer);
        } else {
            _ = writeln!(
                svg,
                r#"<circle cx="{RIGHT}" cy="{y:.1}" r="3" fill="{}" stroke="{}"/>"#,
                theme.paper, theme.peer
            );
        }
    }
    if let Some(bound) = row.bound {
        let x = axis.x(bound);
        _ = writeln!(
            svg,
            r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="{}" stroke-width="2"/>"#,
            y - 7.0,
            y + 7.0,
            theme.ink
        );
    }
    ours(svg, x, y, row.ours <= 1.0, theme);
    text(svg, RIGHT + 16.0, base, colour, r#"font-weight="600""#, &format!("{:.2}×", row.ours));
    text(svg, RIGHT + 60.0, base, theme.muted, "", row.best);
    text(svg, WIDTH - MARGIN, base, theme.ink, r#"text-anchor="end""#, &row.cost);
}

/// Parley's own mark: a disc, or where it is behind a diamond.
fn ours(svg: &mut String, x: f64, y: f64, ahead: bool, theme: &Theme) {
    let paper = theme.paper;
    if ahead {
        let colour = theme.ahead;
        _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="5.5" fill="{colour}" stroke="{paper}"/>"#);
    } else {
        let (left, right, top, bottom) = (x - 6.5, x + 6.5, y - 6.5, y + 6.5);
        let points = format!("{x:.1},{top:.1} {right:.1},{y:.1} {x:.1},{bottom:.1} {left:.1},{y:.1}");
        _ = writeln!(svg, r#"<polygon points="{points}" fill="{}" stroke="{paper}"/>"#, theme.behind);
    }
}

fn legend(svg: &mut String, theme: &Theme, y: f64) {
    let base = y + 4.3;
    ours(svg, MARGIN + 6.0, y, true, theme);
    text(svg, MARGIN + 18.0, base, theme.ink, "", "Parley, cheaper than all others");
    ours(svg, MARGIN + 232.0, y, false, theme);
    text(svg, MARGIN + 244.0, base, theme.ink, "", "Parley, behind another");
    _ = writeln!(svg, r#"<circle cx="{:.1}" cy="{y:.1}" r="3.2" fill="{}"/>"#, MARGIN + 412.0, theme.peer);
    text(svg, MARGIN + 422.0, base, theme.ink, "", "another library (hollow: beyond the end)");
    let x = MARGIN + 694.0;
    _ = writeln!(
        svg,
        r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="{}" stroke-width="2"/>"#,
        y - 7.0,
        y + 7.0,
        theme.ink
    );
    text(svg, x + 10.0, base, theme.ink, "", "Parley's target");
}

/// Where the figures come from, in lines.
fn footer(report: &Report) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(run) = report.runs.first() {
        let rounds = run.samples.iter().map(|sample| sample.values.len()).max().unwrap_or(0);
        let machine = &run.machine;
        let rustc: Vec<_> = run.rustc.split(' ').take(2).collect();
        sentences.push(format!(
            "Medians of up to {rounds} interleaved rounds, {}, on {}, {} cores, {}; {}, fat LTO, baseline {}.",
            run.date,
            machine.cpu,
            machine.cores,
            machine.kernel,
            rustc.join(" "),
            std::env::consts::ARCH,
        ));
        let peers =
            run.versions.iter().filter(|(name, _)| !is_ours(name) && !["tokio", "async-std"].contains(&name.as_str()));
        let peers: Vec<_> = peers.map(|(name, version)| format!("{name} {version}")).collect();
        sentences
            .push(format!("Against {}; each with its fastest stable options, UTF-8 checked by all.", peers.join(", ")));
    }
    sentences.iter().flat_map(|sentence| wrapped(sentence)).collect()
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn text(svg: &mut String, x: f64, y: f64, colour: &str, attributes: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" fill="{colour}" {attributes}>{content}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::super::run::{Run, Sample};
    use super::*;

    fn report() -> Report {
        let mut run = Run::start("memory", false);
        run.profile = "lto".to_owned();
        for (group, row, library, value) in [
            ("receive", "server, text 8-125 B", "parley", 30.0),
            ("receive", "server, text 8-125 B", "parley-proto", 20.0),
            ("receive", "server, text 8-125 B", "yawc", 100.0),
            ("receive", "server, text 8-125 B", "soketto", 99_000.0),
            ("echo <&> server", "depth 64", "parley", 500.0),
            ("echo <&> server", "depth 64", "raw-tcp", 1.0),
            ("echo <&> server", "depth 64", "sockudo-ws", 100.0),
            ("utf8", "1 KiB", "parley", 1.0),
            ("utf8", "1 KiB", "std", 2.0),
        ] {
            run.add(Sample {
                group: group.to_owned(),
                row: row.to_owned(),
                library: library.to_owned(),
                unit: "ns".to_owned(),
                values: vec![value],
                mark: None,
            });
        }
        Report::new(vec![run])
    }

    #[test]
    fn every_row_with_a_peer_is_drawn_and_the_lost_ones_stand_out() {
        let (light, dark) = charts(&report());
        for (svg, theme) in [(&light, &LIGHT), (&dark, &DARK)] {
            assert!(svg.contains("server, text 8-125 B") && svg.contains("depth 64"), "{svg}");
            assert!(!svg.contains("1 KiB"), "no peer, no row: {svg}");
            assert!(svg.contains(&format!(r#"fill="{}" font-weight="600">0.30×"#, theme.ahead)), "{svg}");
            assert!(svg.contains(&format!(r#"fill="{}" font-weight="600">5.00×"#, theme.behind)), "{svg}");
            assert!(svg.contains("echo &lt;&amp;&gt; server"), "{svg}");
            assert!(svg.contains("1 of 2 rows cheaper"), "{svg}");
        }
        assert_ne!(light, dark);
    }

    #[test]
    fn the_axis_holds_all_of_ours_and_keeps_its_proportions() {
        let report = report();
        let rows: Vec<_> = report.rows().into_iter().filter_map(Drawn::new).collect();
        let axis = Axis::around(&rows);
        assert_eq!((axis.low, axis.high), (-2, 3), "from 0.30 to 5");
        assert!((axis.x(2.0) - axis.x(1.0) - (axis.x(1.0) - axis.x(0.5))).abs() < 1e-9);
        assert!(axis.holds(8.0) && !axis.holds(990.0));
        assert_eq!((axis.x(0.25), axis.x(8.0)), (LEFT, RIGHT));
    }

    #[test]
    fn amounts_have_a_unit_of_their_size() {
        assert_eq!(amount(76.4, "ns"), "76 ns");
        assert_eq!(amount(6_420.0, "ns"), "6.4 µs");
        assert_eq!(amount(1_536.0, "B"), "1.5 KiB");
    }
}
