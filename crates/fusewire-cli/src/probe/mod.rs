//! `fusewire probe`: what this kernel, this user and a directory allow.

mod caching;
mod channel;
mod directory;
mod machine;
mod offer;
mod report;
mod sys;
mod user;

use std::io;

use offer::Offer;
use report::{Evidence, Protocol, Report, Section};
use user::User;

use crate::args::ProbeArgs;
use crate::failure::{Failure, Outcome};
use crate::mount::raise_file_limit;
use crate::pages::print;

/// Pages in one request before the limit could be set (Linux 4.20 to 6.12).
const DEFAULT_MAX_PAGES: u64 = 256;

/// Probes and prints.
///
/// # Errors
/// If the directory cannot be opened, or standard output not be written to.
pub fn run(args: &ProbeArgs) -> Outcome<()> {
    if args.offer_only {
        return print_offer();
    }
    let report = probe(args)?;
    if args.json {
        let mut text = serde_json::to_vec_pretty(&report).map_err(unprintable)?;
        text.push(b'\n');
        return print(&text);
    }
    print(report.text().as_bytes())
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::because("cannot write the report as JSON", &error).or_try("without --json")
}

/// The child's part of asking in a namespace of its own.
fn print_offer() -> Outcome<()> {
    let offer = offer::ask().map_err(|error| Failure::because("cannot start a FUSE session", &error))?;
    print(&serde_json::to_vec(&offer).map_err(unprintable)?)
}

fn probe(args: &ProbeArgs) -> Outcome<Report> {
    let user = User::current();
    let directory = args.dir.as_ref().map(|dir| directory::probe(dir, &user)).transpose()?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let max_pages = user::number("/proc/sys/fs/fuse/max_pages_limit").unwrap_or(DEFAULT_MAX_PAGES);
    let limits = user::limits(max_pages);
    // As mounting does; the ring takes some.
    raise_file_limit();
    let (offer, protocol) = protocol(&kernel);
    let (channel, ring) = channel::probe(offer.as_ref());
    let mut features = machine::features(offer.as_ref(), protocol.minor, &user);
    features.insert(0, ring);
    let mut sections = vec![
        Section { title: "Mounting".into(), checks: machine::mounting(&user) },
        Section { title: "What the kernel offers".into(), checks: features },
        Section { title: format!("This user (uid {})", user.uid), checks: user.checks() },
    ];
    let directory = directory.map(|(about, mut checks)| {
        checks.extend(caching::probe(about.path.as_ref(), &protocol));
        let title = format!("Directory {} ({}, {})", about.path, about.fstype, about.options);
        sections.push(Section { title, checks });
        about
    });
    Ok(Report { kernel, protocol, channel, directory, sections, limits })
}

/// Asks the kernel in the way this user may, or else concludes from its version.
fn protocol(kernel: &str) -> (Option<Offer>, Protocol) {
    let asked = offer::ask().map(|offer| (offer, "asked the kernel".to_owned())).or_else(|error| {
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(error);
        }
        let how = "asked the kernel from a user namespace made for this".to_owned();
        offer::ask_in_namespace().map(|offer| (offer, how))
    });
    match asked {
        Ok((offer, how)) => {
            let Offer { major, minor, flags, .. } = offer;
            (Some(offer), Protocol { major, minor, flags: Some(flags), evidence: Evidence::Tried, how })
        }
        Err(error) => (None, guessed(kernel, &error)),
    }
}

fn guessed(kernel: &str, error: &io::Error) -> Protocol {
    let how = format!("concluded from the version, since the kernel could not be asked: {error}");
    let minor = offer::minor_of(release(kernel));
    Protocol { major: 7, minor, flags: None, evidence: Evidence::Inferred, how }
}

/// The first two numbers of a kernel's release.
fn release(text: &str) -> (u32, u32) {
    let mut numbers =
        text.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(release("6.18.44"), (6, 18));
        assert_eq!(release("6.12-rc3-amd64"), (6, 12));
        assert_eq!(release("odd"), (0, 0));
    }

    #[test]
    fn a_guess_says_that_it_is_one() {
        let protocol = guessed("6.9.1", &io::Error::from_raw_os_error(libc::ENOSYS));
        assert_eq!((protocol.minor, protocol.evidence, protocol.flags), (40, Evidence::Inferred, None));
        assert!(protocol.how.contains("not implemented"), "{}", protocol.how);
    }
}
