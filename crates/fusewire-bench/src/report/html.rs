//! The report as one HTML page that needs nothing else: style and plots are inside, and there is no script.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::client::Pin;
use crate::report::by_target::ByTarget;
use crate::report::markdown::{DETAILS, detail, goal_lines, pair_name, ratio_lines};
use crate::report::plot::{self, Bars, COLOURS, Point};
use crate::report::{noise_text, ratio_text};
use crate::requests::Chart;
use crate::results::{Cell, Metric, Pair, Results, Row, Slice, SuiteResult};

const STYLE: &str = include_str!("page.css");

/// Ways to look at the rows of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Cpu,
    Throughput,
    Latency,
    Switches,
}

/// The page.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn page(results: &Results) -> Result<String> {
    let machine = &results.machine;
    let suites = results.suites.iter().zip(0..).map(|(suite, number)| section(suite, number));
    let suites: Vec<Markup> = suites.collect::<Result<_>>()?;
    let names: Vec<_> = results.suites.iter().map(|suite| suite.name.as_str()).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "fusewire bench: " (names.join(", ")) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "fusewire bench" }
                    p {
                        (machine.cpus) " CPUs (" (machine.cpu) "), " (machine.memory >> 30) " GiB, Linux "
                        (machine.kernel) " " (machine.arch) ", load " (format!("{:.2}", machine.load))
                        " at the start; ended " (results.made) "; version " (results.version) "."
                    }
                    pre { code { (results.command.join(" ")) } }
                }
                main { @for suite in &suites { (suite) } }
            }
        }
    };
    Ok(page.into_string())
}

fn section(suite: &SuiteResult, number: usize) -> Result<Markup> {
    let glances = glances(suite)?;
    let charts = suite.rows.iter().map(|row| requests(suite, row)).collect::<Result<Vec<_>>>()?;
    let views: Vec<(View, Vec<Markup>)> =
        View::ALL.into_iter().map(|view| Ok((view, figures(suite, view)?))).collect::<Result<_>>()?;
    Ok(html! {
        section {
            h2 { (suite.name) }
            p { (suite.title) ". " (how(suite)) }
            ul.legend {
                @for (index, target) in suite.targets.iter().enumerate() {
                    li { (swatch(index)) (target.name) }
                }
            }
            (goals(suite))
            (by_target(suite))
            @for plot in &glances { (plot) }
            div.views {
                @for (index, (view, _)) in views.iter().enumerate() {
                    input type="radio" name={ "view" (number) } id={ "view" (number) "-" (index) } checked[index == 0];
                    label for={ "view" (number) "-" (index) } { (view.name()) }
                }
                @for (view, figures) in &views {
                    div.view {
                        p.note { (view.note()) @if has_noisy(suite) { " A * marks rows in which others used more than "
                            (format!("{:.0}", suite.plan.quiet * 100.0)) " % of the machine." } }
                        div.figures { @for figure in figures { (figure) } }
                    }
                }
            }
            h3 { "CPU time per operation" }
            p.note { "Microseconds of client and daemon, user and system: median (smallest). A ratio is the median "
                "[first, third quartile] of the ratios of neighbouring turns." }
            div.scroll { (cpu_table(suite)) }
            (ratio_table(suite))
            @for chart in &charts { (chart) }
            details {
                summary { "Throughput, latency, context switches, memory" }
                p.note { "Medians over the repetitions." }
                div.scroll { (detail_table(suite)) }
            }
            (errors(suite))
            details { summary { "What the rows are" } (explanations(suite)) }
        }
    })
}

/// What each target can do.
fn by_target(suite: &SuiteResult) -> Markup {
    let Some(table) = ByTarget::of(suite) else { return html! {} };
    html! {
        h3 { "By target" }
        p.note { "Medians over the repetitions: more is better." }
        div.scroll {
            table {
                thead { tr { th { "target" } @for title in &table.head { th { (title) } } } }
                tbody {
                    @for (target, numbers) in &table.lines {
                        tr { td { (target) } @for number in numbers { td.n { (number) } } }
                    }
                }
            }
        }
    }
}

/// Requests by operation, as bars and as a table.
fn requests(suite: &SuiteResult, row: &Row) -> Result<Markup> {
    /// More have no room side by side, and the rest is little.
    const MOST: usize = 8;
    let Some(chart) = Chart::of(row) else { return Ok(html! {}) };
    let shown = &chart.lines[..chart.lines.len().min(MOST)];
    let groups: Vec<String> = shown.iter().map(|(name, _)| name.to_lowercase()).collect();
    let point = |number: f64| Some(Point { low: number, middle: number, high: number, part: number });
    let series: Vec<Bars> = chart
        .targets
        .iter()
        .enumerate()
        .map(|(index, target)| Bars {
            colour: colour_of(suite, target),
            points: shown.iter().map(|(_, numbers)| point(numbers[index])).collect(),
        })
        .collect();
    let svg = plot::bars(&groups, &series)?;
    Ok(html! {
        h3 { "Requests by operation: " (row.workload) " on " (row.lower) ", " (row.threads) " threads" }
        p.note { "Of one operation of the workload, median of the turns; in brackets, what part of the first column that \
            is." }
        div.scroll { figure.wide { (PreEscaped(svg)) } }
        div.scroll {
            table {
                thead { tr { th { "operation" } @for target in &chart.targets { th { (target) } } } }
                tbody {
                    @for line in chart.text() {
                        tr { @for (index, text) in line.iter().enumerate() {
                            @if index == 0 { td { (text.trim_matches('*')) } } @else { td.n { (text) } }
                        } }
                    }
                }
            }
        }
    })
}

fn how(suite: &SuiteResult) -> String {
    format!(
        "Cache profile {}, {} repetitions after {} that do not count, targets in turn, client threads {}.",
        suite.profile.name(),
        suite.plan.reps,
        suite.plan.warmup,
        match suite.plan.pin {
            Pin::Free => "not pinned".to_owned(),
            Pin::Each => "pinned".to_owned(),
            Pin::One(cpu) => format!("pinned to CPU {cpu}"),
        }
    )
}

fn swatch(index: usize) -> Markup {
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    html! { span.swatch style=(format!("background:#{red:02x}{green:02x}{blue:02x}")) {} }
}

/// All ratios to the same target in one plot, for each target that others are compared with.
fn glances(suite: &SuiteResult) -> Result<Vec<Markup>> {
    let mut baselines: Vec<&str> = Vec::new();
    for pair in &suite.pairs {
        if !baselines.contains(&pair.baseline.as_str()) {
            baselines.push(&pair.baseline);
        }
    }
    baselines.into_iter().filter_map(|baseline| glance(suite, baseline).transpose()).collect()
}

/// `None` if no row has both targets.
fn glance(suite: &SuiteResult, baseline: &str) -> Result<Option<Markup>> {
    let pairs: Vec<&Pair> = suite.pairs.iter().filter(|pair| pair.baseline == baseline).collect();
    let ratio = |row: &Row, pair: &Pair| {
        let ratio = row.ratio(pair, Metric::Cpu)?;
        Some(Point { low: ratio.q1, middle: ratio.median, high: ratio.q3, part: 0.0 })
    };
    let rows: Vec<&Row> =
        suite.rows.iter().filter(|row| pairs.iter().any(|pair| ratio(row, pair).is_some())).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let several_lower = rows.iter().any(|row| row.lower != rows[0].lower);
    let label = |row: &&Row| {
        let lower = if several_lower { format!(" on {}", row.lower) } else { String::new() };
        format!("{} ×{}{lower}", row.workload, row.threads)
    };
    let labels: Vec<String> = rows.iter().map(label).collect();
    let is_noisy: Vec<bool> = rows.iter().map(|row| row.is_noisy(suite.plan.quiet)).collect();
    let series: Vec<Bars> = pairs
        .iter()
        .map(|pair| Bars {
            colour: colour_of(suite, &pair.subject),
            points: rows.iter().map(|row| ratio(row, pair)).collect(),
        })
        .collect();
    let svg = plot::ratios(&labels, &series, &is_noisy)?;
    Ok(Some(html! {
        h3 { "CPU time per operation, compared with " (baseline) }
        p.note { "Left of 1 is cheaper. Dots are medians of the ratios of neighbouring turns, lines reach from the first to "
            "the third quartile; hollow dots are rows in which others disturbed." }
        div.scroll { figure.wide { (PreEscaped(svg)) } }
    }))
}

fn colour_of(suite: &SuiteResult, target: &str) -> usize {
    suite.targets.iter().position(|known| known.name == target).unwrap_or(0)
}

fn has_noisy(suite: &SuiteResult) -> bool {
    suite.rows.iter().any(|row| row.is_noisy(suite.plan.quiet))
}

/// A figure for each workload on each lower filesystem.
fn figures(suite: &SuiteResult, view: View) -> Result<Vec<Markup>> {
    let mut figures = Vec::new();
    let mut done: Vec<(&str, &str)> = Vec::new();
    for row in &suite.rows {
        let key = (row.lower.as_str(), row.workload.as_str());
        if done.contains(&key) {
            continue;
        }
        done.push(key);
        let rows: Vec<&Row> =
            suite.rows.iter().filter(|row| (row.lower.as_str(), row.workload.as_str()) == key).collect();
        let group =
            |row: &&Row| format!("{}{}", row.threads, if row.is_noisy(suite.plan.quiet) { "*" } else { "" });
        let groups: Vec<String> = rows.iter().map(group).collect();
        let series: Vec<Bars> = suite
            .targets
            .iter()
            .enumerate()
            .map(|(colour, target)| Bars {
                colour,
                points: rows.iter().map(|row| view.point(row.cell(&target.name)?)).collect(),
            })
            // A target that cannot do this workload takes no place.
            .filter(|bars| bars.points.iter().any(Option::is_some))
            .collect();
        let svg = if view == View::Latency {
            plot::tails(&groups, &series)?
        } else {
            plot::bars(&groups, &series)?
        };
        let title = format!("{}: {} by client threads", row.workload, view.name());
        figures.push(html! {
            figure role="img" aria-label=(title) {
                figcaption { b { (row.workload) } " " span.note { (row.lower) ", " (view.unit()) } }
                (PreEscaped(svg))
            }
        });
    }
    Ok(figures)
}

impl View {
    const ALL: [Self; 4] = [Self::Cpu, Self::Throughput, Self::Latency, Self::Switches];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU time",
            Self::Throughput => "Throughput",
            Self::Latency => "Latency",
            Self::Switches => "Context switches",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "µs per operation",
            Self::Throughput => "operations per second",
            Self::Latency => "µs, logarithmic",
            Self::Switches => "per operation",
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Cpu => {
                "By number of client threads. Bars are medians, whiskers quartiles; the full colour is the client's part, \
                 the pale one the daemon's. Lower is better."
            }
            Self::Throughput => {
                "By number of client threads. Bars are medians, whiskers quartiles. Higher is better."
            }
            Self::Latency => {
                "By number of client threads. The dot is the median of the operations, the crossbar their 99th, the end of \
                 the line their 99.9th percentile; of each the median over the turns. Lower is better."
            }
            Self::Switches => {
                "By number of client threads, client and daemon together. Bars are medians, whiskers quartiles."
            }
        }
    }

    fn point(self, cell: &Cell) -> Option<Point> {
        let metric = match self {
            Self::Cpu => Metric::Cpu,
            Self::Throughput => Metric::Throughput,
            Self::Switches => Metric::Switches,
            Self::Latency => {
                let median = |number: fn(&Slice) -> f64| Some(cell.summary(number)?.median);
                let (low, high) = (median(|slice| slice.p50_us)?, median(|slice| slice.p999_us)?);
                return Some(Point { low, middle: median(|slice| slice.p99_us)?, high, part: 0.0 });
            }
        };
        let all = cell.summary(|slice| metric.of(slice))?;
        let part = match self {
            Self::Cpu => cell.summary(|slice| slice.client_us)?.median.min(all.median),
            _ => all.median,
        };
        Some(Point { low: all.q1, middle: all.median, high: all.q3, part })
    }
}

fn cpu_table(suite: &SuiteResult) -> Markup {
    let number = |row: &Row, target: &str| {
        let summary = row.cell(target).and_then(|cell| cell.summary(|slice| slice.cpu_us));
        summary.map_or_else(|| "–".to_owned(), |s| format!("{:.1} ({:.1})", s.median, s.min))
    };
    html! {
        table {
            thead { tr {
                th { "lower" } th { "workload" } th.n { "threads" }
                @for target in &suite.targets { th.n { (target.name) } }
                @for pair in &suite.pairs { th.n { (pair.subject) " / " (pair.baseline) } }
                th.n { "others" }
            } }
            tbody { @for row in &suite.rows {
                tr.noisy[row.is_noisy(suite.plan.quiet)] {
                    td { (row.lower) } td { (row.workload) } td.n { (row.threads) }
                    @for target in &suite.targets { td.n { (number(row, &target.name)) } }
                    @for pair in &suite.pairs {
                        td.n { (row.ratio(pair, Metric::Cpu).map_or_else(|| "–".to_owned(), ratio_text)) }
                    }
                    td.n { (noise_text(row, suite.plan.quiet, "")) }
                }
            } }
        }
    }
}

fn goals(suite: &SuiteResult) -> Markup {
    html! {
        @if !suite.goals.is_empty() {
            h3 { "Goals" }
            p.note { "Measured is the median [first, third quartile] of the turns in the worst row, then in the others that "
                "miss." }
            div.scroll { table.goals {
                thead { tr {
                    th { "goal" } th { "number" } th { "row" } th.n { "measured" } th.n { "wanted" } th { "" }
                } }
                tbody { @for [about, what, row, number, bound, word] in goal_lines(suite) {
                    tr.missed[word.starts_with("missed")] {
                        td { (about) } td { (what) } td { (row) } td.n { (number) } td.n { (bound) } td { (word) }
                    }
                } }
            } }
        }
    }
}

fn ratio_table(suite: &SuiteResult) -> Markup {
    html! {
        @if !suite.pairs.is_empty() {
            details {
                summary { "Ratios" }
                p.note { "Median [first, third quartile] of the ratios of neighbouring turns." }
                div.scroll { table {
                    thead { tr {
                        th { "lower" } th { "workload" } th.n { "threads" } th { "ratio" }
                        @for metric in Metric::RATIOS { th.n { (metric.title()) } }
                        th.n { "others" }
                    } }
                    tbody { @for row in &suite.rows { @for (pair, ratios) in ratio_lines(suite, row) {
                        tr.noisy[row.is_noisy(suite.plan.quiet)] {
                            td { (row.lower) } td { (row.workload) } td.n { (row.threads) } td { (pair_name(pair)) }
                            @for ratio in ratios { td.n { (ratio) } }
                            td.n { (noise_text(row, suite.plan.quiet, "")) }
                        }
                    } } }
                } }
            }
        }
    }
}

fn detail_table(suite: &SuiteResult) -> Markup {
    html! {
        table {
            thead { tr {
                th { "lower" } th { "workload" } th.n { "threads" } th { "target" }
                @for name in DETAILS { th.n { (name) } }
            } }
            tbody { @for row in &suite.rows { @for cell in row.cells.iter().filter(|cell| !cell.slices.is_empty()) {
                tr.noisy[row.is_noisy(suite.plan.quiet)] {
                    td { (row.lower) } td { (row.workload) } td.n { (row.threads) }
                    td { (swatch(colour_of(suite, &cell.target))) (cell.target) }
                    @for text in detail(cell) { td.n { (text) } }
                }
            } } }
        }
    }
}

fn errors(suite: &SuiteResult) -> Markup {
    let failed = suite.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)));
    let failed: Vec<_> = failed.filter_map(|(row, cell)| Some((row, cell, cell.error.as_ref()?))).collect();
    html! {
        @if !failed.is_empty() {
            h3 { "Errors" }
            ul.errors { @for (row, cell, error) in failed {
                li { b { (cell.target) } " at " (row.workload) " ×" (row.threads) " on " (row.lower) ": " code { (error) } }
            } }
        }
    }
}

fn explanations(suite: &SuiteResult) -> Markup {
    html! {
        dl {
            @for workload in &suite.plan.workloads { dt { (workload.name) } dd { (workload.about) } }
            @for target in &suite.targets {
                dt { (target.name) }
                dd { code { (target.command_for("SRC".as_ref(), "MNT".as_ref()).map_or_else(
                    || "no command".to_owned(),
                    |words| words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
                )) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{cell, results, row};

    #[test]
    fn the_page_holds_plots_tables_and_errors_and_needs_nothing_else() {
        let mut failed = cell("b", &[]);
        failed.error = Some("no <space>".into());
        let mut noisy = row("stat", 2, vec![cell("a", &[4.0, 5.0]), cell("b", &[8.0, 10.0])]);
        noisy.cells[0].slices[0].others = Some((0.9, 1.0));
        let rows = vec![
            row("stat", 1, vec![cell("a", &[4.0, 5.0]), cell("b", &[8.0, 10.0])]),
            noisy,
            row("open", 1, vec![cell("a", &[3.0]), failed]),
        ];
        let page = page(&results(rows)).unwrap();
        for needle in [
            "<!DOCTYPE html>",
            "stat ×1",
            "compared with b",
            "4.5 (4.0)",
            "0.50 [0.50, 0.50]",
            "% noisy",
            "no &lt;space&gt;",
            "prefers-color-scheme: dark",
            "2*",
        ] {
            assert!(page.contains(needle), "`{needle}` is missing");
        }
        // The plot of ratios, and one for each workload in each view.
        assert_eq!(page.matches("<svg").count(), 1 + View::ALL.len() * 2);
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains(" src="));
    }

    #[test]
    fn without_a_pair_there_is_no_ratio() {
        let mut results = results(vec![row("stat", 1, vec![cell("a", &[4.0])])]);
        results.suites[0].pairs.clear();
        assert!(!page(&results).unwrap().contains("compared with"));
    }
}
