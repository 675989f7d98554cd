//! Screens of 80 columns and 24 lines.

use std::time::Duration;

use fusewire_bpf::requests::{Histogram, Parts, Start};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::connections::{Place, Process};
use super::super::sample::{Figures, Flight};
use super::*;

fn figures(count: u64, bucket: usize) -> Figures {
    let mut latency = Histogram::default();
    latency.buckets[bucket] = count;
    let latency = Part { total_ns: count * begin_of(bucket), latency };
    Figures { count, errors: count / 10, latency, parts: Parts::default(), ..Figures::default() }
}

fn operation(opcode: u32, count: u64, bucket: usize) -> Operation {
    Operation { opcode, now: figures(count, bucket), total: figures(count * 2, bucket) }
}

fn connection(number: u32, operations: Vec<Operation>, flights: usize) -> Connection {
    let start: Start = zerocopy::FromZeros::new_zeroed();
    let flight = Flight { start, age: Duration::from_secs(5), is_stuck: true };
    let place = Place {
        points: vec![format!("/mnt/{number}").into()],
        servers: vec![Process { pid: 77, name: "server".into() }],
        ..Place::default()
    };
    Connection { number, place, waiting: Some(0), operations, in_flight: vec![flight; flights] }
}

fn screen() -> Screen {
    let connections = vec![
        connection(1, vec![operation(1, 100, 20), operation(15, 400, 40)], 0),
        connection(2, vec![operation(3, 2000, 8)], 3),
    ];
    let mut screen = Screen::default();
    screen.show(Sample { seconds: 1.0, since_start: 2.0, connections, ..Sample::default() });
    screen
}

fn draw(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(line).collect()
}

fn line_of<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {lines:#?}"))
}

#[test]
fn the_busiest_mount_comes_first_and_is_chosen() {
    let lines = draw(&screen(), 80, 24);
    assert!(lines[0].starts_with("fusewire top  2 mounts  2500 req/s  3 stuck"), "{lines:#?}");
    assert!(lines[3].contains("/mnt/2") && lines[4].contains("/mnt/1"), "{lines:#?}");
    let mount = line_of(&lines, "server (77)");
    let words: Vec<_> = mount.split_whitespace().collect();
    assert_eq!(words[..4], ["/mnt/2", "server", "(77)", "2000"]);
    assert_eq!(words[6..], ["3", "3"], "in flight and stuck");
    assert!(line_of(&lines, "GETATTR ").contains("200"), "errors of the chosen mount's operation");
    assert!(line_of(&lines, "4000 in all").contains("GETATTR"));
    assert!(lines[23].contains("q quit"), "{lines:#?}");
}

#[test]
fn keys_choose_and_sort() {
    let mut screen = screen();
    screen.act(Action::Down);
    let lines = draw(&screen, 80, 24);
    assert!(lines.iter().any(|line| line.starts_with("READ ")), "{lines:#?}");
    assert!(line_of(&lines, "800 in all").contains("READ:"));
    screen.act(Action::Switch);
    screen.act(Action::Down);
    line_of(&draw(&screen, 80, 24), "LOOKUP: 200 in all");
    screen.act(Action::Sort);
    let lines = draw(&screen, 80, 24);
    assert!(
        lines[0].contains("sorted by p99") && lines[3].contains("/mnt/1"),
        "READ of /mnt/1 is slowest: {lines:#?}"
    );
}

#[test]
fn requests_in_flight_are_listed() {
    let mut screen = screen();
    screen.act(Action::Flights);
    let lines = draw(&screen, 80, 24);
    assert_eq!(lines.iter().filter(|line| line.starts_with("stuck")).count(), 3, "{lines:#?}");
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut screen = screen();
    screen.act(Action::Pause);
    screen.show(Sample::default());
    let lines = draw(&screen, 80, 24);
    assert!(lines[0].contains("2 mounts") && lines[0].contains("PAUSED"));
}

#[test]
fn the_reason_of_a_refusal_is_shown() {
    let mut screen = screen();
    let mut sample = screen.sample.clone();
    sample.refused = Some("not permitted; try: run it as root".into());
    screen.show(sample);
    line_of(&draw(&screen, 80, 24), "requests cannot be counted: not permitted");
}

#[test]
fn no_size_of_a_terminal_is_too_small() {
    for (width, height) in [(1, 1), (10, 3), (20, 5), (40, 10), (300, 100)] {
        let mut screen = screen();
        draw(&screen, width, height);
        screen.act(Action::Flights);
        draw(&screen, width, height);
    }
    draw(&Screen::default(), 80, 24);
}

#[test]
fn long_paths_show_their_end() {
    assert_eq!(end_of("/a/bc", 5), "/a/bc");
    assert_eq!(end_of("/a/bc", 4), "\u{2026}/bc");
    assert_eq!(end_of("/a/bc", 0), "\u{2026}");
}
