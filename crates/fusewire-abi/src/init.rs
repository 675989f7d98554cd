//! INIT: the first exchange of a connection, which fixes version, limits and features; and its CUSE variant.

use crate::flags::InitFlags;

wire! {
    /// `struct fuse_init_in`: the client's offer. Before protocol 7.36 it ends after `flags`
    /// ([`COMPAT_INIT_IN_SIZE`]).
    struct InitIn: "fuse_init_in" = 64 {
        /// Major version of the client: [`crate::KERNEL_VERSION`].
        0 => major: u32,
        /// Minor version of the client. Both sides use the smaller of the two.
        4 => minor: u32,
        /// The longest readahead of the client in bytes; the reply can lower it.
        8 => max_readahead: u32,
        /// [`InitFlags`], bits 0 to 31.
        12 => flags: u32,
        /// [`InitFlags`], bits 32 to 63; valid with [`InitFlags::INIT_EXT`].
        16 => flags2: u32,
        /// Zero.
        20 => unused: [u32; 11],
    }

    /// `struct fuse_init_out`: the server's answer.
    struct InitOut: "fuse_init_out" = 64 {
        /// Major version of the server. Smaller than the client's: the connection fails.
        0 => major: u32,
        /// Minor version of the server.
        4 => minor: u32,
        /// The longest readahead in bytes; more than was offered has no effect.
        8 => max_readahead: u32,
        /// [`InitFlags`] that both sides want, bits 0 to 31.
        12 => flags: u32,
        /// How many requests may be under way in the background (readahead, write-back, asynchronous direct
        /// I/O); 0 leaves [`DEFAULT_MAX_BACKGROUND`]. Capped by a module parameter for servers without
        /// `CAP_SYS_ADMIN`.
        16 => max_background: u16,
        /// From this many background requests on, the client counts the mount as congested; 0 leaves
        /// [`DEFAULT_CONGESTION_THRESHOLD`].
        18 => congestion_threshold: u16,
        /// The longest data of one WRITE in bytes; less than 4096 counts as 4096.
        20 => max_write: u32,
        /// Granularity of time stamps in nanoseconds, a power of ten up to 10^9; 0 means 1.
        24 => time_gran: u32,
        /// The longest data of one request in pages; valid with [`InitFlags::MAX_PAGES`].
        28 => max_pages: u16,
        /// Binary logarithm of the alignment of DAX mappings; valid with [`InitFlags::MAP_ALIGNMENT`].
        30 => map_alignment: u16,
        /// [`InitFlags`] that both sides want, bits 32 to 63; ignored without [`InitFlags::INIT_EXT`].
        32 => flags2: u32,
        /// How deep file systems may be stacked below this one, 1 or 2; valid with
        /// [`InitFlags::PASSTHROUGH`].
        36 => max_stack_depth: u32,
        /// Seconds after which an unanswered request aborts the connection; valid with
        /// [`InitFlags::REQUEST_TIMEOUT`]. 0 leaves what the administrator set, usually never.
        40 => request_timeout: u16,
        /// Zero.
        42 => unused: [u16; 11],
    }

    /// `struct cuse_init_in`: INIT of a character device in user space.
    struct CuseInitIn: "cuse_init_in" = 16 {
        /// Major version of the client.
        0 => major: u32,
        /// Minor version of the client.
        4 => minor: u32,
        /// Zero.
        8 => unused: u32,
        /// [`crate::CuseInitFlags`].
        12 => flags: u32,
    }

    /// `struct cuse_init_out`. Then NUL-terminated `KEY=VALUE` strings, among them `DEVNAME`, of at most
    /// [`CUSE_INIT_INFO_MAX`] bytes.
    struct CuseInitOut: "cuse_init_out" = 72 {
        /// Major version of the server.
        0 => major: u32,
        /// Minor version of the server.
        4 => minor: u32,
        /// Zero.
        8 => unused: u32,
        /// [`crate::CuseInitFlags`].
        12 => flags: u32,
        /// The longest data of one READ in bytes.
        16 => max_read: u32,
        /// The longest data of one WRITE in bytes.
        20 => max_write: u32,
        /// Major number of the device; 0 lets the kernel choose.
        24 => dev_major: u32,
        /// Minor number of the device.
        28 => dev_minor: u32,
        /// Zero.
        32 => spare: [u32; 10],
    }
}

/// Length of [`InitIn`] in bytes before protocol 7.36.
pub const COMPAT_INIT_IN_SIZE: usize = 16;
/// Length of [`InitOut`] in bytes before protocol 7.5.
pub const COMPAT_INIT_OUT_SIZE: usize = 8;
/// Length of [`InitOut`] in bytes from protocol 7.5 to 7.22.
pub const COMPAT_22_INIT_OUT_SIZE: usize = 24;
/// The longest information after [`CuseInitOut`], in bytes.
pub const CUSE_INIT_INFO_MAX: usize = 4096;
/// `max_background` of a connection whose server did not set one.
pub const DEFAULT_MAX_BACKGROUND: u16 = 12;
/// `congestion_threshold` of a connection whose server did not set one.
pub const DEFAULT_CONGESTION_THRESHOLD: u16 = 9;
/// Pages per request without [`InitFlags::MAX_PAGES`].
pub const DEFAULT_MAX_PAGES: u16 = 32;
/// The most pages per request that a client grants unless the administrator changed
/// `fs.fuse.max_pages_limit`.
pub const DEFAULT_MAX_PAGES_LIMIT: u16 = 256;

impl InitIn {
    /// What the client offers: both words, or the first alone from a client without [`InitFlags::INIT_EXT`].
    /// Bits that this crate does not know are kept.
    pub const fn init_flags(&self) -> InitFlags {
        InitFlags::from_words(self.flags, self.flags2)
    }
}

impl InitOut {
    /// What the server answered, as the client will read it: without [`InitFlags::INIT_EXT`] the second word
    /// is nothing.
    pub const fn init_flags(&self) -> InitFlags {
        InitFlags::from_words(self.flags, self.flags2)
    }

    /// Stores `flags` in both words. Adds [`InitFlags::INIT_EXT`] if a bit of the second word is set, since
    /// the client would ignore that word otherwise; the server must have been offered it.
    pub const fn set_init_flags(&mut self, flags: InitFlags) {
        let (low, high) = flags.to_words();
        self.flags = low;
        self.flags2 = high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_word_counts_only_with_init_ext() {
        let mut offer = InitIn { flags: 1, flags2: 1 << 5, ..InitIn::default() };
        assert_eq!(offer.init_flags(), InitFlags::ASYNC_READ);
        offer.flags |= 1 << 30;
        assert_eq!(offer.init_flags(), InitFlags::ASYNC_READ | InitFlags::INIT_EXT | InitFlags::PASSTHROUGH);
    }

    #[test]
    fn answering_a_high_bit_sets_init_ext() {
        let mut answer = InitOut::default();
        answer.set_init_flags(InitFlags::BIG_WRITES | InitFlags::OVER_IO_URING);
        assert_eq!((answer.flags, answer.flags2), (1 << 5 | 1 << 30, 1 << 9));
        answer.set_init_flags(InitFlags::BIG_WRITES);
        assert_eq!((answer.flags, answer.flags2), (1 << 5, 0));
    }

    #[test]
    fn unknown_bits_survive() {
        let offer = InitIn { flags: 1 << 30, flags2: 1 << 31, ..InitIn::default() };
        assert_eq!(offer.init_flags().bits(), 1 << 63 | 1 << 30);
    }
}
