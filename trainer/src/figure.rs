//! Drawings as SVG: lines with bands, bars, points. Knows numbers and names, not what they mean.

use std::ops::Range;

use anyhow::{Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours that people with red-green blindness can tell apart.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x5b, 0x4b, 0x8a),
    RGBColor(0x44, 0x44, 0x44),
];
const SIZE: (u32, u32) = (920, 440);
/// Width of the legend, to the right of everything else.
const LEGEND: u32 = 200;
const FONT: &str = "sans-serif";
/// Names of more groups than this stand upright.
const BESIDE_EACH_OTHER: usize = 6;

/// One line.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Places, and values with the ends of an interval (equal to the value where there is none).
    pub points: Vec<(f64, [f64; 3])>,
    /// Whether it is drawn dashed, for what is expected rather than measured.
    pub dashed: bool,
}

impl Series {
    /// A line through values without intervals.
    pub fn plain(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().map(|(x, y)| (x, [y, y, y])).collect();
        Self { name: name.into(), points, dashed: false }
    }

    /// The same line, dashed.
    pub fn dashed(self) -> Self {
        Self { dashed: true, ..self }
    }
}

/// Words around a drawing.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// Beside it.
    pub y: &'a str,
}

/// Lines from 0 upwards; with `log` the horizontal scale is logarithmic.
///
/// # Errors
/// If there is nothing to draw.
pub fn lines(words: Words<'_>, all: &[Series], log: bool) -> Result<String> {
    let points = || all.iter().flat_map(|s| &s.points);
    ensure!(points().next().is_some(), "there is nothing to draw in {:?}", words.title);
    let x = range(points().map(|(x, _)| *x));
    let top = points().map(|(_, [_, _, high])| *high).fold(0.0, f64::max).max(1e-6) * 1.08;
    let keys: Vec<Key> = all.iter().map(|s| Key { name: &s.name, shape: Shape::Line }).collect();
    svg(&keys, |area| {
        let mut builder = ChartBuilder::on(area);
        builder.caption(words.title, (FONT, 17)).margin(8).x_label_area_size(40).y_label_area_size(54);
        if log {
            let mut chart = builder.build_cartesian_2d((x.start.max(1e-9)..x.end).log_scale(), 0.0..top)?;
            chart.configure_mesh().x_desc(words.x).y_desc(words.y).max_light_lines(0).draw()?;
            draw_lines(&mut chart, all)
        } else {
            let mut chart = builder.build_cartesian_2d(x, 0.0..top)?;
            chart.configure_mesh().x_desc(words.x).y_desc(words.y).max_light_lines(0).draw()?;
            draw_lines(&mut chart, all)
        }
    })
}

fn draw_lines<'a, 'b: 'a, X>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, plotters::coord::types::RangedCoordf64>>,
    all: &[Series],
) -> Drawn
where
    X: Ranged<ValueType = f64>,
{
    for (n, series) in all.iter().enumerate() {
        let colour = colour(n);
        let middle = series.points.iter().map(|(x, [y, _, _])| (*x, *y));
        if series.points.iter().any(|(_, [_, low, high])| low < high) {
            let there = series.points.iter().map(|(x, [_, low, _])| (*x, *low));
            let back = series.points.iter().rev().map(|(x, [_, _, high])| (*x, *high));
            chart.draw_series([Polygon::new(there.chain(back).collect::<Vec<_>>(), colour.mix(0.15).filled())])?;
        }
        let style = colour.stroke_width(2);
        if series.dashed {
            chart.draw_series(DashedLineSeries::new(middle.clone(), 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(middle.clone(), style))?;
        }
        chart.draw_series(middle.map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    Ok(())
}

/// What an entry of the legend shows.
struct Key<'a> {
    name: &'a str,
    shape: Shape,
}

enum Shape {
    Line,
    Box,
    Dot,
}

/// Colour of the n-th kind: with more kinds than colours the second round is paler.
fn colour(n: usize) -> RGBAColor {
    COLOURS[n % COLOURS.len()].mix(if n < COLOURS.len() { 0.8 } else { 0.4 })
}

fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, keys: &[Key<'_>]) -> Drawn {
    for (n, key) in keys.iter().enumerate() {
        let (x, y, colour) = (4, 44 + 18 * n as i32, colour(n));
        match key.shape {
            Shape::Line => area.draw(&PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)))?,
            Shape::Box => area.draw(&Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()))?,
            Shape::Dot => area.draw(&Circle::new((x + 8, y), 4, colour.filled()))?,
        }
        area.draw(&Text::new(key.name.to_string(), (x + 24, y - 6), (FONT, 12)))?;
    }
    Ok(())
}

/// Bars from 0, one group a name, one bar a series; the values of a group may have intervals.
///
/// # Errors
/// If there is nothing to draw.
pub fn bars(words: Words<'_>, groups: &[String], series: &[(String, Vec<[f64; 3]>)]) -> Result<String> {
    ensure!(!groups.is_empty() && !series.is_empty(), "there is nothing to draw in {:?}", words.title);
    let highest = series.iter().flat_map(|(_, values)| values.iter().map(|v| v[2])).fold(0.0, f64::max);
    let names = groups.to_vec();
    let upright = groups.len() > BESIDE_EACH_OTHER;
    let label = move |x: &f64| {
        let n = x.round();
        let near = (x - n).abs() < 1e-6 && n >= 0.0 && !upright;
        near.then(|| names.get(n as usize).cloned()).flatten().unwrap_or_default()
    };
    let width = 0.8 / series.len() as f64;
    let keys: Vec<Key> = series.iter().map(|(name, _)| Key { name, shape: Shape::Box }).collect();
    svg(&keys, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(words.title, (FONT, 17))
            .margin(8)
            .x_label_area_size(if upright { 130 } else { 40 })
            .y_label_area_size(54)
            .build_cartesian_2d(-0.5..groups.len() as f64 - 0.5, 0.0..highest.max(1e-6) * 1.15)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(2 * groups.len() + 1)
            .x_label_formatter(&label)
            .x_desc(words.x)
            .y_desc(words.y)
            .draw()?;
        for (n, (_, values)) in series.iter().enumerate() {
            let colour = colour(n);
            let left = |group: usize| group as f64 - 0.4 + n as f64 * width;
            let bar = |(group, v): (usize, &[f64; 3])| {
                Rectangle::new([(left(group), 0.0), (left(group) + 0.92 * width, v[0])], colour.filled())
            };
            chart.draw_series(values.iter().enumerate().map(bar))?;
            let whiskers = values.iter().enumerate().filter(|(_, v)| v[1] < v[2]).map(|(group, v)| {
                let x = left(group) + 0.46 * width;
                PathElement::new([(x, v[1]), (x, v[2])], BLACK.mix(0.6).stroke_width(1))
            });
            chart.draw_series(whiskers)?;
        }
        if upright {
            // The library's own labels would stand half inside the chart.
            let style = (FONT, 12).into_font().transform(FontTransform::Rotate90).color(&BLACK);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            for (n, name) in groups.iter().enumerate() {
                let (x, y) = chart.backend_coord(&(n as f64, 0.0));
                area.draw(&Text::new(name.clone(), (x, y + 8), style.clone()))?;
            }
        }
        Ok(())
    })
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// For the legend.
    pub name: String,
    /// Places of filled circles, then places of crosses.
    pub circles: Vec<(f64, f64)>,
    /// Drawn above them, larger.
    pub crosses: Vec<(f64, f64)>,
}

/// Points in the plane without scales.
///
/// # Errors
/// If there is nothing to draw.
pub fn points(title: &str, clouds: &[Cloud]) -> Result<String> {
    let all = || clouds.iter().flat_map(|c| c.circles.iter().chain(&c.crosses));
    ensure!(all().next().is_some(), "there is nothing to draw in {title:?}");
    let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
    let keys: Vec<Key> = clouds.iter().map(|c| Key { name: &c.name, shape: Shape::Dot }).collect();
    svg(&keys, |area| {
        let mut chart = ChartBuilder::on(area).caption(title, (FONT, 17)).margin(8).build_cartesian_2d(x, y)?;
        for (n, cloud) in clouds.iter().enumerate() {
            chart.draw_series(cloud.circles.iter().map(|at| Circle::new(*at, 2, colour(n).filled())))?;
        }
        for (n, cloud) in clouds.iter().enumerate() {
            let colour = colour(n);
            chart.draw_series(cloud.crosses.iter().map(|at| Cross::new(*at, 4, colour.stroke_width(2))))?;
        }
        Ok(())
    })
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A drawing with its legend on the right.
fn svg(keys: &[Key<'_>], draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Drawn) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 - LEGEND);
        draw(&left).and_then(|()| legend(&right, keys)).map_err(|error| anyhow!("cannot draw: {error}"))?;
        area.present()?;
    }
    Ok(text)
}

fn range(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if low < high { low..high } else { low - 0.5..high + 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words<'_> = Words { title: "A < B & C", x: "across", y: "up" };

    #[test]
    fn drawings_are_small_whole_and_the_same_each_time() {
        let series = vec![
            Series {
                name: "measured".into(),
                points: vec![(1.0, [0.2, 0.1, 0.3]), (10.0, [0.1, 0.1, 0.1])],
                dashed: false,
            },
            Series::plain("expected", [(10.0, 0.1), (1000.0, 0.01)]).dashed(),
        ];
        let bar = vec![("one".to_string(), vec![[0.1, 0.05, 0.2], [0.3, 0.3, 0.3]])];
        let clouds = vec![Cloud { name: "s".into(), circles: vec![(0.0, 1.0), (2.0, 3.0)], crosses: vec![(1.0, 1.0)] }];
        let draw = || {
            [
                lines(WORDS, &series, true).unwrap(),
                lines(WORDS, &series, false).unwrap(),
                bars(WORDS, &["x".into(), "y".into()], &bar).unwrap(),
                points(WORDS.title, &clouds).unwrap(),
            ]
        };
        let all = draw();
        for svg in &all {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("A &lt; B &amp; C"));
            assert!(svg.len() < 20_000, "{} bytes", svg.len());
            assert!(!svg.contains("NaN"));
        }
        assert!(all[2].contains("\nx\n") && all[2].contains("\ny\n"), "groups are named: {}", all[2]);
        assert_eq!(all, draw());
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(lines(WORDS, &[], false).is_err());
        assert!(bars(WORDS, &[], &[]).is_err());
        assert!(points("t", &[]).is_err());
    }
}
