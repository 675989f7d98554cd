//! What the kernel offers in INIT, learnt by starting a FUSE session that is attached nowhere.
//!
//! A filesystem made with `fsopen(2)` sends INIT as soon as it is created, before anything is mounted. So the kernel can
//! be asked without a mount point, and closing the descriptors takes everything away again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use fusewire_abi::{InHeader, InitFlags, InitIn, InitOut, OutHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::FsOpenFlags;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

use super::sys;

/// What the kernel offered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// Major version of the protocol.
    pub major: u32,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Feature bits.
    pub flags: u64,
    /// Longest readahead in bytes.
    pub max_readahead: u32,
    /// How registering a file for passthrough went: none if passthrough was not offered, else an error number or 0.
    pub backing: Option<i32>,
}

impl Offer {
    /// Whether the kernel offered all of `flags`.
    pub fn has(&self, flags: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.flags).contains(flags)
    }
}

/// How long the kernel may take to send INIT. It is sent before `fsconfig` returns.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Size of the read buffer: the kernel refuses less than this (`FUSE_MIN_READ_BUFFER`).
const BUFFER: usize = 8192;

/// Asks the kernel, with the rights of this process.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in this user namespace, `ENOSYS` before Linux 5.2, those of opening the device.
pub fn ask() -> io::Result<Offer> {
    let device = open_device()?;
    let filesystem = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&device).to_string();
    let user = rustix::process::geteuid().as_raw().to_string();
    let group = rustix::process::getegid().as_raw().to_string();
    let settings = [
        ("source", "fusewire-probe"),
        ("fd", &descriptor),
        ("rootmode", "40000"),
        ("user_id", &user),
        ("group_id", &group),
    ];
    for (key, value) in settings {
        rustix::mount::fsconfig_set_string(filesystem.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(filesystem.as_fd())?;
    let offer = receive(&device);
    // The connection ends with its device; only then may the filesystem go, which would otherwise wait for answers.
    drop(device);
    drop(filesystem);
    offer
}

/// Opens the FUSE device.
///
/// # Errors
/// Those of `open(2)`.
pub fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open("/dev/fuse", flags, Mode::empty())?)
}

fn receive(device: &OwnedFd) -> io::Result<Offer> {
    let mut ready = [PollFd::new(device, PollFlags::IN)];
    if poll(&mut ready, Some(&PATIENCE))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel sent no INIT"));
    }
    let mut buffer = vec![0; BUFFER];
    let length = rustix::io::read(device, &mut buffer)?;
    let malformed =
        || io::Error::new(io::ErrorKind::InvalidData, "the kernel sent an INIT that is too short");
    let (header, rest) = InHeader::read_from_prefix(&buffer[..length]).map_err(|_| malformed())?;
    // Protocols before 7.36 send a shorter structure; what is missing counts as zero.
    let mut args = [0; size_of::<InitIn>()];
    let sent = rest.len().min(args.len());
    args[..sent].copy_from_slice(&rest[..sent]);
    let (init, _) = InitIn::read_from_prefix(&args).map_err(|_| malformed())?;
    let mut offer = Offer {
        major: init.major,
        minor: init.minor,
        flags: u64::from(init.flags) | u64::from(init.flags2) << 32,
        max_readahead: init.max_readahead,
        backing: None,
    };
    if offer.has(InitFlags::PASSTHROUGH) {
        offer.backing = Some(try_backing(device, &header, &offer));
    }
    Ok(offer)
}

/// Accepts the offer of passthrough and registers the program's own file. Returns 0 or the error number.
fn try_backing(device: &OwnedFd, request: &InHeader, offer: &Offer) -> i32 {
    let flags = InitFlags::INIT_EXT | InitFlags::PASSTHROUGH;
    let answer = InitOut {
        major: offer.major,
        minor: offer.minor,
        max_readahead: offer.max_readahead,
        flags: flags.bits() as u32,
        flags2: (flags.bits() >> 32) as u32,
        max_write: 4096,
        max_stack_depth: 2,
        ..InitOut::default()
    };
    let length = size_of::<OutHeader>() + size_of::<InitOut>();
    let header = OutHeader { len: length as u32, error: 0, unique: request.unique };
    let message = [header.as_bytes(), answer.as_bytes()].concat();
    let tried = rustix::io::write(device, &message).map_err(io::Error::from).and_then(|_| {
        let file = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        sys::backing(device.as_fd(), file.as_fd())
    });
    tried.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

/// Asks the kernel from a user namespace made for this, which any user may make where the system allows it.
///
/// # Errors
/// If there is no `unshare`, or namespaces are forbidden.
pub fn ask_in_namespace() -> io::Result<Offer> {
    let program = std::env::current_exe()?;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(program)
        .args(["probe", "--offer-only"])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(complaint));
    }
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// The protocol's minor version of a kernel, from its release: the best guess when it cannot be asked.
pub fn minor_of(release: (u32, u32)) -> u32 {
    const SINCE: [((u32, u32), u32); 23] = [
        ((7, 3), 46),
        ((6, 18), 45),
        ((6, 16), 44),
        ((6, 15), 43),
        ((6, 14), 42),
        ((6, 12), 41),
        ((6, 9), 40),
        ((6, 6), 39),
        ((6, 2), 38),
        ((6, 1), 37),
        ((5, 17), 36),
        ((5, 16), 35),
        ((5, 14), 34),
        ((5, 11), 33),
        ((5, 10), 32),
        ((5, 4), 31),
        ((5, 2), 30),
        ((5, 1), 29),
        ((4, 20), 28),
        ((4, 18), 27),
        ((4, 9), 26),
        ((4, 7), 25),
        ((4, 5), 24),
    ];
    SINCE.iter().find(|(since, _)| release >= *since).map_or(23, |(_, minor)| *minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_follows_the_release() {
        assert_eq!(minor_of((6, 12)), 41);
        assert_eq!(minor_of((6, 17)), 44);
        assert_eq!(minor_of((7, 3)), 46);
        assert_eq!(minor_of((8, 0)), 46);
        assert_eq!(minor_of((3, 16)), 23);
    }
}
