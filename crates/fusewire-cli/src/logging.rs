//! Where messages go, and which.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::LogArgs;
use crate::failure::{Failure, Outcome};

/// The socket on which syslog daemons and the journal listen.
const SYSTEM_LOG: &str = "/dev/log";

/// Target of messages that an option has asked for, at the level of information: they are logged whatever `-q` and `-v` say.
pub const ASKED_FOR: &str = "asked_for";

/// Where messages go if no file was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Terminal,
    /// The log of the system, for a process that has no terminal.
    System,
}

/// Starts logging as the command line and `RUST_LOG` ask for.
///
/// # Errors
/// If the filter cannot be understood or the file cannot be opened.
pub fn start(args: &LogArgs, destination: Destination) -> Outcome<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(args)?).with_target(false);
    // A message that cannot be written is lost. To tell of it on standard error would end the thread where that cannot be written either.
    let builder = builder.log_internal_errors(false);
    if let Some(path) = &args.log_file {
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| {
            Failure::new(format!("cannot write messages to {}: {error}", path.display()))
                .or_try("another file with --log-file FILE")
        })?;
        builder.with_ansi(false).with_writer(Mutex::new(file)).init();
        return Ok(());
    }
    match destination {
        Destination::Terminal => {
            builder.without_time().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init();
        }
        Destination::System => {
            builder
                .without_time()
                .with_level(false)
                .with_ansi(false)
                .with_writer(SystemLog::connect())
                .init();
        }
    }
    Ok(())
}

fn filter(args: &LogArgs) -> Outcome<EnvFilter> {
    let unreadable = |name: &str, text: &str, why: String| {
        Failure::usage(format!("{name} `{text}` is not a log filter: {why}")).or_try(
            "a level (error, warn, info, debug, trace), or parts with levels: info,fusewire::channel=trace",
        )
    };
    if let Some(text) = &args.log {
        return EnvFilter::try_new(text).map_err(|error| unreadable("--log", text, error.to_string()));
    }
    let environment = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    if !environment.is_empty() && !args.quiet && args.verbose == 0 {
        return EnvFilter::try_new(&environment)
            .map_err(|error| unreadable(EnvFilter::DEFAULT_ENV, &environment, error.to_string()));
    }
    Ok(EnvFilter::new(format!("{},{ASKED_FOR}=info", default_level(args))))
}

fn default_level(args: &LogArgs) -> &'static str {
    match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    }
}

/// Writes each message as one datagram in the form of RFC 3164, which syslog daemons and the journal read.
struct SystemLog {
    socket: Option<UnixDatagram>,
}

impl SystemLog {
    /// A machine without a system log loses the messages: a daemon has nobody else to tell.
    fn connect() -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(SYSTEM_LOG)?;
            // A full log must not stop requests from being answered.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self { socket: socket.ok() }
    }
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Entry { socket: self.socket.as_ref(), severity: 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let severity = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Entry { socket: self.socket.as_ref(), severity }
    }
}

/// One message for the system log.
struct Entry<'a> {
    socket: Option<&'a UnixDatagram>,
    severity: u8,
}

/// `LOG_DAEMON`, shifted as `syslog(3)` does.
const FACILITY: u8 = 3 << 3;

impl Write for Entry<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(socket) = self.socket {
            let mut line =
                format!("<{}>fusewire[{}]: ", FACILITY | self.severity, std::process::id()).into_bytes();
            line.extend_from_slice(text.trim_ascii_end());
            // Nothing could be done about a failure, and logging about logging ends in a loop.
            let _ = socket.send(&line);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_v_and_q() {
        let level = |verbose, quiet| default_level(&LogArgs { verbose, quiet, ..LogArgs::default() });
        assert_eq!(
            [level(0, false), level(1, false), level(9, false), level(0, true)],
            ["warn", "info", "trace", "error"]
        );
    }

    #[test]
    fn what_was_asked_for_is_logged_at_every_level() {
        for args in [LogArgs::default(), LogArgs { quiet: true, ..LogArgs::default() }] {
            let log = tempfile::NamedTempFile::new().expect("a file");
            let writer = Mutex::new(log.reopen().expect("opened"));
            let filter = filter(&args).expect("a filter");
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!("by the way");
                tracing::info!(target: ASKED_FOR, "statistics");
            });
            let text = std::fs::read_to_string(log.path()).expect("text");
            assert!(text.contains("statistics") && !text.contains("by the way"), "{text}");
        }
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        let refused = filter(&LogArgs { log: Some("fusewire=loud".into()), ..LogArgs::default() });
        assert!(refused.err().is_some_and(|failure| failure.to_string().contains("fusewire=loud")));
    }

    #[test]
    fn a_message_is_one_datagram_with_its_priority() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("bind");
        let socket = UnixDatagram::unbound().expect("socket");
        socket.connect(&path).expect("connect");
        let mut entry = Entry { socket: Some(&socket), severity: 4 };
        entry.write_all(b"  the mount is gone\n").expect("written");
        let mut buffer = [0; 200];
        let length = reader.recv(&mut buffer).expect("received");
        let expected = format!("<28>fusewire[{}]:   the mount is gone", std::process::id());
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
    }
}
