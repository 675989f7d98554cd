//! INIT: what the kernel offers, what the filesystem wants, what both can have, and why the rest is refused.

use crate::{limits, session::Config, types::*};
use fusewire_abi::{self as abi, InitFlags, InitIn, InitOut};
use zerocopy::{FromBytes, IntoBytes};

/// On unless a filesystem says otherwise: they change how requests travel, not what they mean.
pub const DEFAULT: InitFlags = InitFlags::ASYNC_READ
    .union(InitFlags::BIG_WRITES)
    .union(InitFlags::PARALLEL_DIROPS)
    .union(InitFlags::ASYNC_DIO)
    .union(InitFlags::MAX_PAGES)
    .union(InitFlags::INIT_EXT)
    .union(InitFlags::ABORT_ERROR)
    .union(InitFlags::SETXATTR_EXT)
    .union(InitFlags::HAS_EXPIRE_ONLY);

/// Features in the second word of flags, which counts only with `INIT_EXT`.
const SECOND_WORD: InitFlags = InitFlags::from_bits_retain(!0 << 32);

/// The minor version that brought `fuse_in_header::total_extlen` (Linux 6.3).
const TOTAL_EXTLEN_MINOR: u32 = 38;

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Features.
    pub flags: InitFlags,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Largest write, bytes.
    pub max_write: u32,
    /// Largest request and answer in pages.
    pub max_pages: u16,
}

impl Agreed {
    /// Before INIT: nothing.
    pub const NOTHING: Self =
        Self { flags: InitFlags::empty(), minor: 0, max_write: limits::MIN_WRITE, max_pages: 1 };

    /// Room that an answer may need, bytes, without its header.
    pub fn reply_area(&self) -> usize {
        (self.max_write as usize).max(usize::from(self.max_pages) * 4096).max(limits::MIN_REPLY)
    }
}

/// A feature that was wanted and is not had, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The feature.
    pub flag: InitFlags,
    /// The reason.
    pub reason: &'static str,
}

/// The outcome of INIT.
#[derive(Debug)]
pub enum Negotiation {
    /// Agreed: send this answer.
    Agreed(InitOut, Agreed, Vec<Refused>),
    /// The kernel speaks a later major version: send this answer, it will come back with ours.
    Again(InitOut),
}

/// What the surroundings allow: mount options, the channel, the kernel's limits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest write to agree on, bytes.
    pub max_write: u32,
    /// Most pages in a request that the kernel allows (`fs.fuse.max_pages_limit`).
    pub max_pages_limit: u16,
    /// The mount has `default_permissions`.
    pub default_permissions: bool,
    /// A ring is at hand: requests may go over io_uring.
    pub ring: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_write: limits::MAX_WRITE, max_pages_limit: 256, default_permissions: false, ring: false }
    }
}

/// Answer INIT. `args` and `payload` are the pieces of its request, `ask` is the filesystem's say.
///
/// # Errors
/// `PROTO` for a kernel older than Linux 5.4 (protocol 7.31), `INVAL` for a malformed request, and what `ask` returns.
pub fn negotiate(
    args: &[u8],
    payload: &[u8],
    bounds: Bounds,
    ask: impl FnOnce(&mut Config) -> Result<()>,
) -> Result<Negotiation> {
    let init = parse(args, payload)?;
    if init.major > abi::KERNEL_VERSION {
        let out =
            InitOut { major: abi::KERNEL_VERSION, minor: abi::KERNEL_MINOR_VERSION, ..Default::default() };
        return Ok(Negotiation::Again(out));
    }
    if init.major < abi::KERNEL_VERSION || init.minor < limits::MIN_MINOR {
        return Err(Errno::PROTO);
    }
    let high =
        if init.flags & InitFlags::INIT_EXT.bits() as u32 != 0 { u64::from(init.flags2) << 32 } else { 0 };
    let offered = InitFlags::from_bits_retain(u64::from(init.flags) | high);
    let mut config = Config {
        offered,
        minor: init.minor.min(abi::KERNEL_MINOR_VERSION),
        want: DEFAULT & offered,
        max_write: bounds.max_write,
        max_readahead: init.max_readahead,
        max_background: limits::MAX_BACKGROUND,
        congestion_threshold: limits::MAX_BACKGROUND / 4 * 3,
        time_gran: 1,
        max_stack_depth: 0,
        map_alignment: 12,
        request_timeout: 0,
    };
    if bounds.ring {
        config.want |= InitFlags::OVER_IO_URING.union(InitFlags::HAS_IO_URING_BUFPOOL) & offered;
    }
    ask(&mut config)?;
    let (flags, refused) = agree(&config, bounds);
    Ok(answer(&init, &config, bounds, flags, refused))
}

/// INIT has grown: a shorter request reads as zeros where it ends.
fn parse(args: &[u8], payload: &[u8]) -> Result<InitIn> {
    let mut init = InitIn::default();
    let room = init.as_mut_bytes();
    if args.len() < 8 || args.len() > room.len() {
        return Err(Errno::INVAL);
    }
    let n = payload.len().min(room.len() - args.len());
    room[..args.len()].copy_from_slice(args);
    room[args.len()..][..n].copy_from_slice(&payload[..n]);
    InitIn::read_from_bytes(init.as_bytes()).map_err(|_| Errno::INVAL)
}

/// What of the wanted can be had.
fn agree(config: &Config, bounds: Bounds) -> (InitFlags, Vec<Refused>) {
    let mut flags = config.want;
    let mut refused = Vec::new();
    let mut refuse = |flags: &mut InitFlags, which: InitFlags, reason| {
        for flag in (*flags & which).iter() {
            refused.push(Refused { flag, reason });
        }
        *flags -= which;
    };
    let missing = flags - config.offered;
    refuse(&mut flags, missing, "the kernel does not offer it");
    if !bounds.ring {
        refuse(&mut flags, InitFlags::OVER_IO_URING, "this channel is not the ring");
    }
    if !flags.contains(InitFlags::OVER_IO_URING) {
        refuse(&mut flags, InitFlags::HAS_IO_URING_BUFPOOL, "it needs OVER_IO_URING");
    }
    if !flags.contains(InitFlags::INIT_EXT) {
        refuse(&mut flags, SECOND_WORD, "it needs INIT_EXT, which was not asked for");
    }
    if config.minor < TOTAL_EXTLEN_MINOR {
        refuse(
            &mut flags,
            InitFlags::SECURITY_CTX,
            "before protocol 7.38 a request does not say where labels begin",
        );
    }
    refuse(&mut flags, InitFlags::EXPORT_SUPPORT, "names . and .. are never looked up");
    if flags.contains(InitFlags::WRITEBACK_CACHE) {
        refuse(&mut flags, InitFlags::PASSTHROUGH, "it excludes WRITEBACK_CACHE, which was asked for too");
    }
    if config.max_stack_depth == 0 {
        refuse(&mut flags, InitFlags::PASSTHROUGH, "it needs a max_stack_depth of 1 or 2");
    }
    if !bounds.default_permissions && !flags.contains(InitFlags::POSIX_ACL) {
        refuse(&mut flags, InitFlags::ALLOW_IDMAP, "it needs the mount option default_permissions");
    }
    if flags.contains(InitFlags::AUTO_INVAL_DATA) {
        refuse(
            &mut flags,
            InitFlags::EXPLICIT_INVAL_DATA,
            "it excludes AUTO_INVAL_DATA, which was asked for too",
        );
    }
    if config.request_timeout == 0 {
        refuse(&mut flags, InitFlags::REQUEST_TIMEOUT, "no timeout was given");
    }
    (flags, refused)
}

fn answer(
    init: &InitIn,
    config: &Config,
    bounds: Bounds,
    flags: InitFlags,
    refused: Vec<Refused>,
) -> Negotiation {
    let pages_limit = if flags.contains(InitFlags::MAX_PAGES) { bounds.max_pages_limit.max(1) } else { 32 };
    let max_write = config
        .max_write
        .clamp(limits::MIN_WRITE, limits::MAX_WRITE_EVER)
        .min(u32::from(pages_limit).saturating_mul(4096));
    // The ring's buffers exist already, and other requests than writes need some room as well.
    let ring = flags.contains(InitFlags::OVER_IO_URING);
    let max_write = if ring { max_write.min(bounds.max_write.max(limits::MIN_WRITE)) } else { max_write };
    let max_pages =
        (max_write.div_ceil(4096) as u16).max(if ring { limits::RING_PAGES.min(pages_limit) } else { 1 });
    let out = InitOut {
        major: abi::KERNEL_VERSION,
        minor: config.minor,
        max_readahead: config.max_readahead.min(init.max_readahead),
        flags: flags.bits() as u32,
        max_background: config.max_background,
        congestion_threshold: config.congestion_threshold,
        max_write,
        time_gran: config.time_gran,
        max_pages,
        map_alignment: if flags.contains(InitFlags::MAP_ALIGNMENT) { config.map_alignment } else { 0 },
        flags2: (flags.bits() >> 32) as u32,
        max_stack_depth: if flags.contains(InitFlags::PASSTHROUGH) { config.max_stack_depth } else { 0 },
        request_timeout: config.request_timeout,
        ..Default::default()
    };
    Negotiation::Agreed(out, Agreed { flags, minor: config.minor, max_write, max_pages }, refused)
}
