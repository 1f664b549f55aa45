//! Draws recall against queries a second as SVG: one panel for each kind of queries, one line for each way of building.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use crate::{data::QueryKind, report::Report, search::Point};

const PANEL_WIDTH: f64 = 440.0;
const PANEL_HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const GAP: f64 = 60.0;
const LEGEND_LINE: f64 = 18.0;
/// Lowest recall drawn.
const LOWEST: f64 = 0.6;
/// Recalls with a grid line.
const GRID: [f64; 8] = [0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];
/// Colours that people with red-green blindness can tell apart.
const COLOURS: [&str; 8] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b4b8a", "#444444"];

/// One way of building, in one panel.
struct Line {
    label: String,
    colour: &'static str,
    dashed: bool,
    /// Recall and queries a second of one core.
    corners: Vec<(f64, f64)>,
}

/// Draws reports over each other; the first one's data gives the title.
pub fn write(reports: &[Report], path: &Path) -> Result<()> {
    fs::write(path, draw(reports)).with_context(|| format!("writing {}", path.display()))
}

fn draw(reports: &[Report]) -> String {
    let panels = QueryKind::ALL.map(|kind| lines(reports, kind));
    let rates = panels.iter().flatten().flat_map(|line| line.corners.iter().map(|(_, rate)| *rate));
    let (low, high) = rates.fold((f64::INFINITY, 0.0f64), |(low, high), rate| (low.min(rate), high.max(rate)));
    let (low, high) = if low < high { (low.log10().floor(), high.log10().ceil()) } else { (0.0, 4.0) };
    let legend = panels.iter().map(Vec::len).max().unwrap_or(0);
    let width = LEFT + 2.0 * PANEL_WIDTH + GAP + 20.0;
    let height = TOP + PANEL_HEIGHT + 60.0 + legend as f64 * LEGEND_LINE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    if let Some(first) = reports.first() {
        let title = format!(
            "{} {} x {}, recall@{}: queries a second of one core ({})",
            first.data, first.rows, first.dimensions, first.limit, first.machine.cpu
        );
        text(&mut svg, LEFT, 22.0, "start", 15, &title);
    }
    for (i, (kind, lines)) in QueryKind::ALL.into_iter().zip(&panels).enumerate() {
        let frame = Frame { left: LEFT + i as f64 * (PANEL_WIDTH + GAP), low, high };
        frame.draw(&mut svg, kind, lines);
    }
    let widest = panels.iter().max_by_key(|lines| lines.len());
    for (i, line) in widest.into_iter().flatten().enumerate() {
        let y = TOP + PANEL_HEIGHT + 60.0 + i as f64 * LEGEND_LINE;
        let dash = dash(line);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"2.5\"{dash}/>",
            LEFT + 34.0,
            line.colour
        );
        text(&mut svg, LEFT + 42.0, y + 4.0, "start", 12, &line.label);
    }
    svg.push_str("</svg>\n");
    svg
}

fn lines(reports: &[Report], kind: QueryKind) -> Vec<Line> {
    let mut lines = Vec::new();
    for report in reports {
        for (i, system) in report.systems.iter().enumerate() {
            for (j, variant) in system.variants.iter().enumerate() {
                let label = format!("{} {}, {}", system.name, system.version, variant.label);
                let corners = frontier(&variant.points, kind);
                lines.push(Line { label, colour: COLOURS[i % COLOURS.len()], dashed: j > 0, corners });
            }
        }
    }
    lines
}

/// The settings that no other one beats in both recall and speed, by recall.
fn frontier(points: &[Point], kind: QueryKind) -> Vec<(f64, f64)> {
    let mut corners: Vec<(f64, f64)> = points
        .iter()
        .filter(|point| point.queries == kind && point.cpu_ms > 0.0)
        .map(|point| (point.recall, 1000.0 / point.cpu_ms))
        .collect();
    corners.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let mut best = 0.0;
    corners.retain(|(_, rate)| {
        let keep = *rate > best;
        best = rate.max(best);
        keep
    });
    corners.reverse();
    corners.retain(|(recall, _)| *recall >= LOWEST);
    corners
}

/// A panel's place and scales.
struct Frame {
    left: f64,
    /// Powers of ten at the bottom and the top.
    low: f64,
    high: f64,
}

impl Frame {
    /// Recall on a scale that spreads its last percents: the logarithm of what is missing.
    fn x(&self, recall: f64) -> f64 {
        let place = |recall: f64| -(1.0 - recall.clamp(LOWEST, 0.9995)).log10();
        let (from, to) = (place(LOWEST), place(1.0));
        self.left + PANEL_WIDTH * (place(recall) - from) / (to - from)
    }

    fn y(&self, rate: f64) -> f64 {
        TOP + PANEL_HEIGHT * (self.high - rate.log10()) / (self.high - self.low)
    }

    fn draw(&self, svg: &mut String, kind: QueryKind, lines: &[Line]) {
        let (left, right, bottom) = (self.left, self.left + PANEL_WIDTH, TOP + PANEL_HEIGHT);
        text(svg, left + PANEL_WIDTH / 2.0, TOP - 10.0, "middle", 13, &format!("{} queries", kind.name()));
        for recall in GRID {
            let x = self.x(recall);
            let _ = writeln!(svg, "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>");
            text(svg, x, bottom + 16.0, "middle", 10, &recall.to_string());
        }
        for power in self.low as i32..=self.high as i32 {
            for step in 1..10 {
                let rate = f64::from(step) * 10f64.powi(power);
                if rate.log10() > self.high + 1e-9 {
                    break;
                }
                let (y, shade) = (self.y(rate), if step == 1 { "#bbb" } else { "#eee" });
                let _ = writeln!(
                    svg,
                    "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"{shade}\"/>"
                );
                if step == 1 {
                    text(svg, left - 6.0, y + 4.0, "end", 10, &format!("{rate:.0}"));
                }
            }
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{TOP}\" width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" stroke=\"#666\"/>"
        );
        text(svg, left + PANEL_WIDTH / 2.0, bottom + 34.0, "middle", 12, "recall");
        for line in lines {
            let corners: Vec<String> = line
                .corners
                .iter()
                .map(|(recall, rate)| format!("{:.1},{:.1}", self.x(*recall), self.y(*rate)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>",
                corners.join(" "),
                line.colour,
                dash(line)
            );
            for (recall, rate) in &line.corners {
                let (x, y) = (self.x(*recall), self.y(*rate));
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{}\"/>", line.colour);
            }
        }
    }
}

fn dash(line: &Line) -> &'static str {
    if line.dashed { " stroke-dasharray=\"6 3\"" } else { "" }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Settings;

    #[test]
    fn the_frontier_keeps_what_nothing_beats() {
        let point = |recall, cpu_ms| Point {
            queries: QueryKind::TextLike,
            settings: Settings::new(),
            recall,
            mean_rows: 10.0,
            fewest_rows: 10,
            cpu_ms,
            p50_ms: cpu_ms,
            p95_ms: cpu_ms,
        };
        let points = [point(0.9, 1.0), point(0.8, 2.0), point(0.95, 2.0), point(0.3, 0.1), point(0.99, 4.0)];
        assert_eq!(frontier(&points, QueryKind::TextLike), [(0.9, 1000.0), (0.95, 500.0), (0.99, 250.0)]);
        assert!(frontier(&points, QueryKind::DataLike).is_empty());
    }
}
