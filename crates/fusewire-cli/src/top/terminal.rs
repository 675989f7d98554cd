//! The terminal: keys in, pictures out, and as it was at the end, however that comes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::sample::Sampler;
use super::screen::{Action, Screen};
use super::{failure, signals};
use crate::failure::{Failure, Outcome};

/// How long a signal may go unnoticed.
const PATIENCE: Duration = Duration::from_millis(200);

/// Shows samples until a key or a signal ends it.
///
/// # Errors
/// If the terminal cannot be used, or the kernel does not show its counters any more.
pub fn run(sampler: &mut Sampler, interval: Duration) -> Outcome<()> {
    let ended = signals()?;
    // A panic puts the terminal back before it says anything: `try_init` sees to that.
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let outcome = show(&mut terminal, sampler, interval, &|| ended.load(Ordering::Relaxed));
    ratatui::restore();
    outcome
}

fn broken(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot use the terminal: {error}"))
        .or_try("--once, which takes none, or --json for a program")
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    sampler: &mut Sampler,
    interval: Duration,
    is_over: &dyn Fn() -> bool,
) -> Outcome<()> {
    let mut screen = Screen::default();
    let mut next = Instant::now();
    while !is_over() {
        if Instant::now() >= next {
            screen.show(sampler.sample().map_err(|refused| failure(&refused))?);
            next += interval;
        }
        terminal.draw(|frame| screen.draw(frame)).map_err(broken)?;
        let until = next.saturating_duration_since(Instant::now());
        // Drawn again only when there is something new.
        let mut left = until;
        while !is_over() && !event::poll(left.min(PATIENCE)).map_err(broken)? {
            left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
        }
        while !is_over() && event::poll(Duration::ZERO).map_err(broken)? {
            match event::read().map_err(broken)? {
                Event::Key(key) if is_end(&key) => return Ok(()),
                Event::Key(key) => action(&key).into_iter().for_each(|action| screen.act(action)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_end(key: &KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || is_control && key.code == KeyCode::Char('c')
}

fn action(key: &KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => Some(Action::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Action::Down),
        KeyCode::Tab => Some(Action::Switch),
        KeyCode::Char('s') => Some(Action::Sort),
        KeyCode::Char('f') => Some(Action::Flights),
        KeyCode::Char('p') => Some(Action::Pause),
        _ => None,
    }
}
