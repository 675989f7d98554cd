//! The page in a real browser, where one is installed.

use std::process::Command;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::page;
use super::plot::COLOURS;
use crate::goal::tests::goal;
use crate::program;
use crate::results::tests::{cell, results, row};

/// Clicks on each view and writes into the page what is to be seen then: which views are shown, how many plots have a size, in
/// how many of them a colour is missing of those that a target has, whether the page is too wide, what was loaded, and the
/// colours of ground and text. It runs when everything that the page wants is there or has failed.
const LOOK: &str = "<script>addEventListener('load', () => {
    const size = part => { const box = part.getBoundingClientRect(); return box.width + box.height; };
    const plots = () => [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().height > 100);
    const has = (svg, colour) => [...svg.querySelectorAll('*')].some(part =>
        [part.getAttribute('fill'), part.getAttribute('stroke')].includes(colour) && size(part) > 3);
    const seen = {views: []};
    for (const label of document.querySelectorAll('.views > label')) {
        label.click();
        seen.views.push({
            shown: [...document.querySelectorAll('.view')].map(v => getComputedStyle(v).display == 'block'),
            plots: plots().length,
            empty: plots().slice(1).filter(svg => !COLOURS.every(colour => has(svg, colour))).length,
        });
    }
    seen.ratios = has(document.querySelector('figure.wide svg'), COLOURS[0]);
    seen.labels = plots().every(svg => [...svg.querySelectorAll('text')].filter(size).length > 3);
    seen.wide = document.documentElement.scrollWidth - innerWidth;
    seen.width = innerWidth;
    seen.loaded = performance.getEntriesByType('resource').map(entry => entry.name);
    seen.ground = getComputedStyle(document.body).backgroundColor;
    seen.text = getComputedStyle(document.querySelector('svg text')).fill;
    document.body.append('SEEN ' + JSON.stringify(seen) + ' END');
});</script>";

/// A page of two targets and two workloads, with a goal and a failure.
fn sample() -> String {
    let mut failed = cell("b", &[0.5]);
    failed.error = Some("it broke".into());
    let rows = vec![
        row("stat", 1, vec![cell("a", &[4.0, 5.0]), cell("b", &[8.0, 10.0])]),
        row("stat", 2, vec![cell("a", &[4.0, 5.0]), cell("b", &[8.0, 10.0])]),
        row("open", 1, vec![cell("a", &[3.0]), failed]),
    ];
    let mut results = results(rows);
    results.suites[0].goals.push(goal(0.6));
    page(&results).unwrap()
}

/// Loads a page with these arguments of the browser: what is to be seen, and the browser's messages from the page.
fn look(page: &str, arguments: &[&str]) -> (Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    let colour = |(red, green, blue): &(u8, u8, u8)| format!("#{red:02X}{green:02X}{blue:02X}");
    let colours: Vec<_> = COLOURS[..2].iter().map(colour).collect();
    let script = LOOK.replace("COLOURS", &serde_json::to_string(&colours).unwrap());
    std::fs::write(&path, page.replace("</body>", &format!("{script}</body>"))).unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    // Nothing is reached, whatever the page asks for.
    command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
    command.args(arguments).arg("--dump-dom").arg(format!("file://{}", path.display()));
    let done = program::run(command, b"", &[], &AtomicBool::new(false)).unwrap().success("chromium").unwrap();
    let dom = String::from_utf8_lossy(&done.output);
    let seen = dom.rsplit_once("SEEN ").and_then(|(_, rest)| rest.split_once(" END"));
    let (seen, _) = seen.unwrap_or_else(|| panic!("the page's script did not end:\n{dom}"));
    // What stands in the page was written there as text.
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let errors = String::from_utf8_lossy(&done.errors);
    let said: Vec<_> = errors.lines().filter(|line| line.contains("CONSOLE")).collect();
    (serde_json::from_str(&seen).unwrap(), said.join("\n"))
}

fn has_browser() -> bool {
    let is_there = program::find_in("chromium", program::path_dirs()).is_some();
    if !is_there {
        crate::skip::skipped("chromium is not installed");
    }
    is_there
}

/// Sum of the three parts of `rgb(1, 2, 3)`.
fn brightness(colour: &Value) -> u32 {
    let numbers = colour.as_str().unwrap().split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse::<u32>().ok()).take(3).sum()
}

#[test]
fn a_browser_shows_one_view_at_a_time_with_its_plots_and_loads_nothing() {
    if !has_browser() {
        return;
    }
    for (arguments, is_dark) in [
        (&["--window-size=1000,800", "--blink-settings=preferredColorScheme=1"], false),
        (&["--window-size=1000,800", "--blink-settings=preferredColorScheme=0"], true),
        (&["--window-size=500,900", "--blink-settings=preferredColorScheme=1"], false),
    ] {
        let (seen, said) = look(&sample(), arguments);
        assert_eq!(said, "", "the browser complains");
        let views = seen["views"].as_array().unwrap();
        assert_eq!(views.len(), 4, "{seen}");
        for (index, view) in views.iter().enumerate() {
            let shown: Vec<bool> = (0..4).map(|other| other == index).collect();
            assert_eq!(view["shown"], serde_json::json!(shown), "{seen}");
            // The plot of ratios and those of two workloads.
            assert_eq!((view["plots"].as_u64(), view["empty"].as_u64()), (Some(3), Some(0)), "{seen}");
        }
        assert_eq!((&seen["ratios"], &seen["labels"]), (&true.into(), &true.into()), "{seen}");
        assert!(seen["wide"].as_i64().unwrap() <= 0, "{arguments:?}: {seen}");
        assert_eq!(seen["loaded"], serde_json::json!([]), "{seen}");
        let (ground, text) = (brightness(&seen["ground"]), brightness(&seen["text"]));
        assert!(if is_dark { ground + 300 < text } else { text + 300 < ground }, "{arguments:?}: {seen}");
    }
}

#[test]
fn a_page_that_loads_fails_or_lacks_a_plot_would_be_noticed() {
    if !has_browser() {
        return;
    }
    let bad = sample()
        .replace(
            "</main>",
            "<img src=\"http://example.invalid/x.png\"><script>console.error('no')</script></main>",
        )
        .replacen("#F28E2B", "none", 400);
    let (seen, said) = look(&bad, &["--window-size=1000,800"]);
    assert!(said.contains("no"), "{said}");
    assert_eq!(seen["loaded"], serde_json::json!(["http://example.invalid/x.png"]), "{seen}");
    assert!(seen["views"][0]["empty"].as_u64() > Some(0), "{seen}");
}
