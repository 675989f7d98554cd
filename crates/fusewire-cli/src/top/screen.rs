//! What `fusewire top` shows on a terminal: state that keys change, and drawing.

use fusewire_bpf::requests::{BUCKETS, Part, begin_of};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

use super::sample::{Connection, Latency, Row as Operation, Sample, name_of};
use super::text;

/// By what the lists are sorted, each from the largest down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Requests in the interval.
    #[default]
    Rate,
    /// The time that 99 of 100 stayed below.
    Slowest,
    /// Requests on their way; of operations, errors.
    Trouble,
    /// Names, from the smallest up.
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Slowest,
            Self::Slowest => Self::Trouble,
            Self::Trouble => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Rate => "req/s",
            Self::Slowest => "p99",
            Self::Trouble => "in flight, errors",
            Self::Name => "name",
        }
    }
}

/// Which list the arrows move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Focus {
    #[default]
    Mounts,
    Operations,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To choose what is above.
    Up,
    /// To choose what is below.
    Down,
    /// To go to the other list.
    Switch,
    /// Another order.
    Sort,
    /// Requests in flight, or the histogram.
    Flights,
    /// To stop, or to go on.
    Pause,
}

/// What is shown.
#[derive(Debug, Default)]
pub struct Screen {
    sample: Sample,
    order: Order,
    focus: Focus,
    mount: Option<u32>,
    opcode: Option<u32>,
    shows_flights: bool,
    is_paused: bool,
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const KEYS: &str = " q quit  up/down choose  tab mounts/operations  s sort  f in flight  p pause";

impl Screen {
    /// Takes a new sample, unless it is paused.
    pub fn show(&mut self, sample: Sample) {
        if self.is_paused {
            return;
        }
        self.sample = sample;
        self.sort();
    }

    /// Does what a key asks for.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::Switch => {
                self.focus = if self.focus == Focus::Mounts { Focus::Operations } else { Focus::Mounts }
            }
            Action::Sort => self.order = self.order.next(),
            Action::Flights => self.shows_flights = !self.shows_flights,
            Action::Pause => self.is_paused = !self.is_paused,
        }
        self.sort();
    }

    fn sort(&mut self) {
        let order = self.order;
        let slowest = |part: &Part| part.latency.quantile(0.99).unwrap_or(0);
        self.sample.connections.sort_by_cached_key(|connection| {
            let (now, _) = connection.sums();
            let size = match order {
                Order::Rate => now.count,
                Order::Slowest => slowest(&now.latency),
                Order::Trouble => connection.in_flight.len() as u64,
                Order::Name => 0,
            };
            (std::cmp::Reverse(size), connection.point())
        });
        for connection in &mut self.sample.connections {
            connection.operations.sort_by_cached_key(|operation| {
                let size = match order {
                    Order::Rate => operation.now.count,
                    Order::Slowest => slowest(&operation.now.latency),
                    Order::Trouble => operation.now.errors,
                    Order::Name => 0,
                };
                (std::cmp::Reverse(size), name_of(operation.opcode))
            });
        }
    }

    fn step(&mut self, by: isize) {
        match self.focus {
            Focus::Mounts => {
                let numbers: Vec<u32> =
                    self.sample.connections.iter().map(|connection| connection.number).collect();
                self.mount = moved(&numbers, self.mount, by);
            }
            Focus::Operations => {
                let operations =
                    self.chosen().map(|connection| connection.operations.as_slice()).unwrap_or_default();
                let opcodes: Vec<u32> = operations.iter().map(|operation| operation.opcode).collect();
                self.opcode = moved(&opcodes, self.opcode, by);
            }
        }
    }

    /// The chosen mount: the first if none was chosen, or if it is gone.
    fn chosen(&self) -> Option<&Connection> {
        let connections = &self.sample.connections;
        connections
            .iter()
            .find(|connection| Some(connection.number) == self.mount)
            .or_else(|| connections.first())
    }

    /// Draws everything.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let wanted = u16::try_from(self.sample.connections.len()).unwrap_or(u16::MAX).saturating_add(2);
        let most = (frame.area().height / 3).max(3);
        let heights = [1, wanted.clamp(3, most), 0, 1];
        let [top, mounts, detail, keys] = Layout::vertical([
            Constraint::Length(heights[0]),
            Constraint::Length(heights[1]),
            Constraint::Min(3),
            Constraint::Length(heights[3]),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.title()).style(BOLD), top);
        self.draw_mounts(frame, mounts);
        self.draw_detail(frame, detail);
        frame.render_widget(Paragraph::new(KEYS).style(CHOSEN), keys);
    }

    fn title(&self) -> String {
        let count: u64 = self.sample.connections.iter().map(|connection| connection.sums().0.count).sum();
        let stuck: usize = self.sample.connections.iter().map(Connection::stuck).sum();
        let mounts = self.sample.connections.len();
        let paused = if self.is_paused { "  PAUSED" } else { "" };
        let missed = text::missed(&self.sample).map(|missed| format!("  {missed}")).unwrap_or_default();
        format!(
            "fusewire top  {mounts} mount{}  {} req/s  {stuck} stuck  sorted by {}{paused}{missed}",
            if mounts == 1 { "" } else { "s" },
            text::per_second(count, self.sample.seconds),
            self.order.word(),
        )
    }

    fn draw_mounts(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = self.block(" mounts ".into(), Focus::Mounts);
        let chosen = self.chosen().map(|connection| connection.number);
        // What numbers and gaps leave: three parts for the path, two for the server.
        let room = usize::from(area.width).saturating_sub(37) * 3 / 5;
        let rows = self.sample.connections.iter().map(|connection| {
            let (now, _) = connection.sums();
            let latency = Latency::of(&now.latency);
            let time = |of: fn(&Latency) -> u64| {
                latency.as_ref().map_or("-".into(), |latency| text::duration(of(latency)))
            };
            let stuck = connection.stuck();
            let style = if stuck > 0 { BOLD } else { Style::new() };
            Row::new([
                Cell::new(end_of(&connection.point(), room)),
                Cell::new(text::servers(connection)),
                number(text::per_second(now.count, self.sample.seconds)),
                number(time(|latency| latency.p50)),
                number(time(|latency| latency.p99)),
                number(in_flight(connection)),
                number(stuck.to_string()),
            ])
            .style(style)
        });
        let header = ["MOUNT", "SERVER"].map(Cell::new).into_iter();
        let header =
            header.chain(["REQ/S", "P50", "P99", "FLIGHT", "STUCK"].map(|text| number(text.to_owned())));
        let widths = [
            Constraint::Length(room as u16),
            Constraint::Fill(1),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(5),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(header).style(BOLD))
            .row_highlight_style(CHOSEN)
            .block(block);
        let index = self.sample.connections.iter().position(|connection| Some(connection.number) == chosen);
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(index));
    }

    fn block(&self, title: String, focus: Focus) -> Block<'static> {
        let style = if self.focus == focus { BOLD } else { Style::new() };
        Block::new().borders(Borders::TOP).title(Span::styled(title, style)).border_style(style)
    }

    fn draw_detail(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(connection) = self.chosen() else {
            return frame.render_widget(Paragraph::new(" there is no FUSE mount").block(Block::new()), area);
        };
        if let Some(refused) = &self.sample.refused {
            let words = format!("requests cannot be counted: {refused}\n{}", self.sample.notes.join("\n"));
            let words = Paragraph::new(words).wrap(ratatui::widgets::Wrap { trim: true });
            return frame.render_widget(words.block(Block::new().borders(Borders::TOP)), area);
        }
        if self.shows_flights {
            return self.draw_flights(frame, area, connection);
        }
        let wide = if self.sample.split { 70 } else { 49 };
        let [operations, histogram] =
            Layout::horizontal([Constraint::Length(wide), Constraint::Min(0)]).spacing(2).areas(area);
        self.draw_operations(frame, operations, connection);
        self.draw_histogram(frame, histogram, connection);
    }

    fn draw_operations(&self, frame: &mut Frame<'_>, area: Rect, connection: &Connection) {
        let mut heads = vec!["REQ/S", "P50", "P99", "MAX", "ERRORS"];
        if self.sample.split {
            heads.extend(["QUEUE", "SERVE", "WAKE"]);
        }
        let rows = connection.operations.iter().map(|operation| self.operation(operation));
        let widths = std::iter::once(Constraint::Fill(1))
            .chain(heads.iter().map(|head| Constraint::Length(head.len().max(6) as u16)));
        let header = std::iter::once(Cell::new("OPERATION"))
            .chain(heads.iter().map(|head| number((*head).to_owned())));
        let table = Table::new(rows, widths)
            .header(Row::new(header).style(BOLD))
            .row_highlight_style(CHOSEN)
            .block(self.block(format!(" {} ", connection.point()), Focus::Operations));
        let chosen = self.operation_of(connection).map(|operation| operation.opcode);
        let index = connection.operations.iter().position(|operation| Some(operation.opcode) == chosen);
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(index));
    }

    fn operation(&self, operation: &Operation) -> Row<'static> {
        let now = &operation.now;
        let latency = Latency::of(&now.latency);
        let time = |of: fn(&Latency) -> u64| {
            latency.as_ref().map_or("-".into(), |latency| text::duration(of(latency)))
        };
        let mut cells = vec![
            Cell::new(name_of(operation.opcode)),
            number(text::per_second(now.count, self.sample.seconds)),
            number(time(|latency| latency.p50)),
            number(time(|latency| latency.p99)),
            number(time(|latency| latency.max)),
            number(now.errors.to_string()),
        ];
        if self.sample.split {
            cells.extend(
                [&now.parts.queue, &now.parts.service, &now.parts.wake].map(|part| number(text::mean(part))),
            );
        }
        Row::new(cells)
    }

    fn operation_of<'a>(&self, connection: &'a Connection) -> Option<&'a Operation> {
        let operations = &connection.operations;
        operations
            .iter()
            .find(|operation| Some(operation.opcode) == self.opcode)
            .or_else(|| operations.first())
    }

    /// Since the beginning: an interval has too few requests for a picture.
    fn draw_histogram(&self, frame: &mut Frame<'_>, area: Rect, connection: &Connection) {
        let Some(operation) = self.operation_of(connection) else { return };
        let title = format!(" {}: {} in all ", name_of(operation.opcode), operation.total.count);
        let block = Block::new().borders(Borders::TOP).title(title);
        let lines = bars(&operation.total.latency, block.inner(area));
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_flights(&self, frame: &mut Frame<'_>, area: Rect, connection: &Connection) {
        let title = format!(
            " {}: {} in flight, {} stuck ",
            connection.point(),
            in_flight(connection),
            connection.stuck()
        );
        let lines = connection.in_flight.iter().map(text::in_flight).chain(text::unseen(connection));
        let lines: Vec<Line<'_>> = lines.map(Line::from).collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(title)),
            area,
        );
    }
}

/// Those that were seen being sent, or those that the kernel counts, whichever is more: some are older than we are.
fn in_flight(connection: &Connection) -> String {
    (connection.in_flight.len() as u64).max(connection.waiting.unwrap_or(0)).to_string()
}

/// The end of a path, which tells more than its beginning.
fn end_of(path: &str, room: usize) -> String {
    let length = path.chars().count();
    if length <= room {
        return path.to_owned();
    }
    path.chars()
        .skip(length + 1 - room.max(1))
        .fold("\u{2026}".to_owned(), |text, char| text + &char.to_string())
}

fn number(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).right_aligned())
}

fn moved(all: &[u32], chosen: Option<u32>, by: isize) -> Option<u32> {
    let now = chosen.and_then(|chosen| all.iter().position(|one| *one == chosen)).unwrap_or(0);
    all.get(now.saturating_add_signed(by).min(all.len().saturating_sub(1))).copied()
}

/// A bar for each doubling of time, from the fastest to the slowest.
fn bars(part: &Part, area: Rect) -> Vec<Line<'static>> {
    let octaves: Vec<u64> = part.latency.buckets.chunks(4).map(|quarters| quarters.iter().sum()).collect();
    let Some(first) = octaves.iter().position(|count| *count > 0) else { return Vec::new() };
    let last = octaves.iter().rposition(|count| *count > 0).unwrap_or(first);
    let most = octaves.iter().copied().max().unwrap_or(1).max(1);
    // Name, bar and number; what does not fit is cut at the fast end, as the slow ones matter.
    let room = usize::from(area.width).saturating_sub(8 + 1 + 8);
    let first = first.max((last + 1).saturating_sub(usize::from(area.height)));
    (first..=last.min(BUCKETS / 4 - 1))
        .map(|octave| {
            let count = octaves[octave];
            let eighths = (count as f64 / most as f64 * (room * 8) as f64).ceil() as usize;
            let mut bar = "\u{2588}".repeat(eighths / 8);
            if let Some(rest) =
                char::from_u32(0x2590 - (eighths % 8) as u32).filter(|_| !eighths.is_multiple_of(8))
            {
                bar.push(rest);
            }
            Line::from(format!("{:>7} {bar} {count}", text::duration(begin_of(octave * 4))))
        })
        .collect()
}

#[cfg(test)]
mod tests;
