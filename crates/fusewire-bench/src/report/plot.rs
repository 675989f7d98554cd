//! Plots as SVG text. Colours of series are fixed; text and axes are black here and get the page's colour by its style
//! sheet, so that they can be read on light and dark ground.

use std::error::Error;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Colours that differ in brightness too, for readers who see few colours; legible on white and on black.
pub const COLOURS: [(u8, u8, u8); 8] = [
    (0x4e, 0x79, 0xa7),
    (0xf2, 0x8e, 0x2b),
    (0x4f, 0x9d, 0x69),
    (0xd4, 0x5d, 0x5d),
    (0x9c, 0x75, 0xc5),
    (0x2f, 0xa8, 0xb0),
    (0xc9, 0xa2, 0x27),
    (0x8c, 0x8c, 0x8c),
];

const FONT: &str = "sans-serif";
const TEXT: u32 = 12;

/// A value with its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// First quartile, or another lower end.
    pub low: f64,
    /// Median.
    pub middle: f64,
    /// Third quartile, or another upper end.
    pub high: f64,
    /// The part of the median that is drawn in the full colour, such as the client's; the rest is drawn paler.
    pub part: f64,
}

/// Bars of one target: one for each group, if it has a number there.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Index of the colour.
    pub colour: usize,
    /// One for each group.
    pub points: Vec<Option<Point>>,
}

/// The colour of this number; after the last one they begin again.
pub fn colour(index: usize) -> RGBColor {
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    RGBColor(red, green, blue)
}

/// Groups of bars from zero, each with its spread.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn bars(groups: &[String], series: &[Bars]) -> Result<String> {
    let width = (groups.len() * (series.len() * 13 + 14) + 80).clamp(300, 760) as u32;
    let top = highest(series).max(f64::MIN_POSITIVE) * 1.08;
    drawn((width, 210), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(52)
            .build_cartesian_2d(Slots::new(groups), 0.0..top)?;
        grid(&mut chart, groups.len(), &short)?;
        for (index, bars) in series.iter().enumerate() {
            let colour = colour(bars.colour);
            for (group, point) in bars.points.iter().enumerate() {
                let Some(point) = point else { continue };
                let (left, right) = place(group, index, series.len());
                let pale =
                    Rectangle::new([(left, point.part), (right, point.middle)], colour.mix(0.55).filled());
                let full = Rectangle::new([(left, 0.0), (right, point.part)], colour.filled());
                chart.draw_series([pale, full])?;
                let spread = (f64::midpoint(left, right), point.low, point.middle, point.high);
                chart.draw_series([ErrorBar::new_vertical(
                    spread.0,
                    spread.1,
                    spread.2,
                    spread.3,
                    BLACK.filled(),
                    5,
                )])?;
            }
        }
        Ok(())
    })
}

/// Lines from `low` to `high` on a logarithmic axis with a dot at `low` and a mark at `middle`: latencies with their
/// tails.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn tails(groups: &[String], series: &[Bars]) -> Result<String> {
    let width = (groups.len() * (series.len() * 13 + 14) + 80).clamp(300, 760) as u32;
    let (bottom, top) = (lowest(series).max(1e-3) / 1.5, highest(series).max(1e-2) * 1.5);
    drawn((width, 210), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(52)
            .build_cartesian_2d(Slots::new(groups), (bottom..top).log_scale())?;
        grid(&mut chart, groups.len(), &short)?;
        for (index, bars) in series.iter().enumerate() {
            let line = colour(bars.colour).stroke_width(2);
            for (group, point) in bars.points.iter().enumerate() {
                let Some(point) = point else { continue };
                let (left, right) = place(group, index, series.len());
                let x = f64::midpoint(left, right);
                chart.draw_series([
                    PathElement::new([(x, point.low), (x, point.high)], line),
                    PathElement::new([(left, point.middle), (right, point.middle)], line),
                ])?;
                chart.draw_series([Circle::new((x, point.low), 4, colour(bars.colour).filled())])?;
            }
        }
        Ok(())
    })
}

/// Ratios with their spread, one line each, and a rule at 1. Points of rows in which others disturbed are hollow.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn ratios(rows: &[String], series: &[Bars], is_noisy: &[bool]) -> Result<String> {
    let height = (rows.len() * (series.len() * 9 + 12) + 50) as u32;
    let left = (lowest(series) * 0.95).clamp(0.0, 0.9);
    let right = (highest(series) * 1.05).max(1.1);
    let label_width = rows.iter().map(|row| row.chars().count()).max().unwrap_or(0) as u32 * 7 + 16;
    // The first row on top.
    let labels: Vec<String> = rows.iter().rev().cloned().collect();
    drawn((label_width + 520, height), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(24)
            .y_label_area_size(label_width)
            .build_cartesian_2d(left..right, Slots::new(&labels))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_labels(9)
            .y_labels(rows.len())
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .axis_style(BLACK.mix(0.6))
            .label_style((FONT, TEXT))
            .x_label_formatter(&|ratio| format!("{ratio:.2}"))
            .draw()?;
        let end = rows.len() as f64;
        chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, end)], BLACK.mix(0.7).stroke_width(1))])?;
        for (index, bars) in series.iter().enumerate() {
            for (row, point) in bars.points.iter().enumerate() {
                let Some(point) = point else { continue };
                let (low, high) = place(rows.len() - 1 - row, series.len() - 1 - index, series.len());
                let y = f64::midpoint(low, high);
                let line = colour(bars.colour).stroke_width(2);
                chart.draw_series([PathElement::new([(point.low, y), (point.high, y)], line)])?;
                let fill = if is_noisy.get(row) == Some(&true) { line } else { colour(bars.colour).filled() };
                chart.draw_series([Circle::new((point.middle, y), 4, fill)])?;
            }
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn drawn(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn Error>>) -> Result<String> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    draw(&area).and_then(|()| Ok(area.present()?)).map_err(|error| anyhow!("cannot draw a plot: {error}"))?;
    drop(area);
    Ok(text)
}

fn grid<'a, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'_>, Cartesian2d<Slots, Y>>,
    groups: usize,
    label: &dyn Fn(&f64) -> String,
) -> Result<(), Box<dyn Error>>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(groups)
        .y_labels(5)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.15))
        .axis_style(BLACK.mix(0.6))
        .label_style((FONT, TEXT))
        .y_label_formatter(label)
        .draw()?;
    Ok(())
}

/// Where the bar of this series is drawn in the unit that belongs to its group.
fn place(group: usize, index: usize, count: usize) -> (f64, f64) {
    let width = 0.8 / count as f64;
    let left = group as f64 + 0.1 + width * index as f64;
    (left + width * 0.06, left + width * 0.94)
}

fn points(series: &[Bars]) -> impl Iterator<Item = &Point> {
    series.iter().flat_map(|bars| bars.points.iter().flatten())
}

fn highest(series: &[Bars]) -> f64 {
    points(series).map(|point| point.high).fold(0.0, f64::max)
}

fn lowest(series: &[Bars]) -> f64 {
    points(series).map(|point| point.low).filter(|low| *low > 0.0).fold(f64::INFINITY, f64::min).min(1e12)
}

/// A number as short as an axis wants it: `1500` is `1.5k`.
pub fn short(number: &f64) -> String {
    let (number, unit) = match number.abs() {
        size if size >= 1e9 => (number / 1e9, "G"),
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e3 => (number / 1e3, "k"),
        _ => (*number, ""),
    };
    let text = if number.abs() >= 0.1 { format!("{number:.1}") } else { format!("{number:.3}") };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text.is_empty() { "0" } else { text })
}

/// An axis of names: the first stands at 0 to 1, the second at 1 to 2.
#[derive(Debug, Clone)]
struct Slots {
    labels: Vec<String>,
}

impl Slots {
    fn new(labels: &[String]) -> Self {
        Self { labels: labels.to_vec() }
    }
}

impl Ranged for Slots {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (0..self.labels.len()).map(|index| index as f64 + 0.5).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.labels.len().max(1) as f64
    }
}

impl ValueFormatter<f64> for Slots {
    fn format_ext(&self, value: &f64) -> String {
        self.labels.get(*value as usize).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(colour: usize, middles: &[Option<f64>]) -> Bars {
        let point = |middle: f64| Point { low: middle * 0.9, middle, high: middle * 1.2, part: middle / 3.0 };
        Bars { colour, points: middles.iter().map(|middle| middle.map(point)).collect() }
    }

    #[test]
    fn every_kind_of_plot_is_svg_with_its_labels() {
        let groups = ["1".to_owned(), "32*".to_owned()];
        let two = [series(0, &[Some(4.0), Some(1500.0)]), series(1, &[None, Some(900.0)])];
        for text in [bars(&groups, &two), tails(&groups, &two), ratios(&groups, &two, &[false, true])] {
            let text = text.unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
            assert!(text.contains("32*") && text.contains("#4E79A7") && text.contains("#F28E2B"), "{text}");
            assert!(
                !text.contains("http://") || text.matches("http://").count() == 1,
                "more than the namespace"
            );
        }
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        for text in [bars(&[], &[]), tails(&["1".into()], &[series(0, &[None])]), ratios(&[], &[], &[])] {
            assert!(text.unwrap().starts_with("<svg"));
        }
        let zero = [series(0, &[Some(0.0)])];
        assert!(bars(&["1".into()], &zero).is_ok() && tails(&["1".into()], &zero).is_ok());
    }

    #[test]
    fn bars_of_a_group_lie_side_by_side_inside_of_it() {
        for count in 1..6 {
            let mut last = 2.0;
            for index in 0..count {
                let (left, right) = place(2, index, count);
                assert!(last < left && left < right && right < 3.0, "{count} {index}");
                last = right;
            }
        }
    }

    #[test]
    fn axes_have_short_numbers() {
        for (number, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.25, "0.2"),
            (12.0, "12"),
            (1500.0, "1.5k"),
            (2e6, "2M"),
            (3e9, "3G"),
        ] {
            assert_eq!(short(&number), text);
        }
    }
}
