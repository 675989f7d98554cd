//! Names of errnos, flags and types as cases write them, and the notation for bytes.
//!
//! A string in a case stands for bytes. Three things inside `<` and `>` are special:
//! `<0xff00>` is raw bytes (`<0x00*512>` many of them), `<ab*300>` is `ab` 300 times, `<seq*4096>` is 4096 bytes of a pattern that
//! does not repeat at any power of two (`<seq7*4096>` another one). `<<` is a single `<`.

use rustix::io::Errno;

macro_rules! table {
    ($name:ident: $ty:ty = $($item:ident)*) => {
        static $name: &[(&str, $ty)] = &[$((stringify!($item), libc::$item as $ty)),*];
    };
}

table! { ERRNOS: i32 = E2BIG EACCES EAGAIN EBADF EBUSY EDEADLK EDESTADDRREQ EDOM EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL
EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG ENFILE ENODATA ENODEV ENOENT ENOLCK ENOMEM ENOSPC ENOSYS ENOTCONN
ENOTDIR ENOTEMPTY ENOTSOCK ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE ERANGE EROFS ESPIPE ESRCH ESTALE
ETIMEDOUT ETXTBSY EXDEV ECONNREFUSED ECONNABORTED EADDRINUSE EPROTO ENODEV EREMOTE EUSERS ECHILD ENOTBLK }

table! { OPEN_FLAGS: u64 = O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND O_DIRECTORY O_NOFOLLOW O_PATH O_TMPFILE
O_DIRECT O_CLOEXEC O_NONBLOCK O_SYNC O_DSYNC O_NOATIME O_NOCTTY }

table! { OTHER_FLAGS: u64 = AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_EACCESS AT_REMOVEDIR AT_EMPTY_PATH
RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT
FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE FALLOC_FL_ZERO_RANGE FALLOC_FL_COLLAPSE_RANGE FALLOC_FL_INSERT_RANGE
FALLOC_FL_UNSHARE_RANGE XATTR_CREATE XATTR_REPLACE RWF_APPEND RWF_DSYNC RWF_SYNC RWF_HIPRI RWF_NOWAIT
MS_SYNC MS_ASYNC MS_INVALIDATE PROT_READ PROT_WRITE PROT_EXEC PROT_NONE LOCK_SH LOCK_EX LOCK_UN LOCK_NB
SYNC_FILE_RANGE_WAIT_BEFORE SYNC_FILE_RANGE_WRITE SYNC_FILE_RANGE_WAIT_AFTER }

table! { SIGNALS: i32 = SIGUSR1 SIGUSR2 SIGTERM SIGKILL SIGBUS SIGSEGV SIGALRM SIGXFSZ SIGSTOP SIGCONT }

/// `ENOENT (No such file or directory)`, or `errno 524` where it has no name here.
pub fn show_errno(errno: Errno) -> String {
    let code = errno.raw_os_error();
    let text = std::io::Error::from_raw_os_error(code).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    match errno_name(code) {
        Some(name) => format!("{name} ({text})"),
        None => format!("errno {code} ({text})"),
    }
}

/// The name of an errno's number.
pub fn errno_name(code: i32) -> Option<&'static str> {
    ERRNOS.iter().find(|(_, c)| *c == code).map(|(name, _)| *name)
}

/// The errno of a name such as `ENOENT`. `ENOTSUP` is accepted for `EOPNOTSUPP`, `ENOATTR` for `ENODATA`.
pub fn errno(name: &str) -> Option<Errno> {
    let name = match name {
        "ENOTSUP" => "EOPNOTSUPP",
        "ENOATTR" => "ENODATA",
        "EWOULDBLOCK" => "EAGAIN",
        other => other,
    };
    ERRNOS.iter().find(|(n, _)| *n == name).map(|(_, c)| Errno::from_raw_os_error(*c))
}

/// The number of a signal's name.
pub fn signal(name: &str) -> Option<i32> {
    SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
}

/// The name of a signal, or its number.
pub fn show_signal(number: i32) -> String {
    SIGNALS
        .iter()
        .find(|(_, c)| *c == number)
        .map_or_else(|| format!("signal {number}"), |(n, _)| (*n).to_owned())
}

/// `A|B|0x10` as one word of bits.
pub fn flags(text: &str) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split('|').map(str::trim).filter(|p| !p.is_empty()) {
        let known = OPEN_FLAGS.iter().chain(OTHER_FLAGS).find(|(n, _)| *n == part).map(|(_, bits)| *bits);
        let hex = part.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok());
        bits |= known.or(hex).ok_or_else(|| format!("`{part}` is no flag this suite knows"))?;
    }
    Ok(bits)
}

/// Bytes of a string in the notation of this module.
pub fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('<') {
            out.push(b'<');
            rest = after;
            continue;
        }
        let end = rest
            .find('>')
            .ok_or_else(|| format!("`{text}`: `<` without `>` (a literal `<` is written `<<`)"))?;
        special(&rest[..end], &mut out).map_err(|why| format!("`{text}`: {why}"))?;
        rest = &rest[end + 1..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

fn special(inner: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let (body, count) = match inner.rsplit_once('*') {
        Some((body, count)) => {
            (body, count.parse().map_err(|_| format!("`<{inner}>`: `{count}` is no count"))?)
        }
        None if inner.starts_with("0x") => (inner, 1),
        None => return Err(format!("`<{inner}>` is neither <0x..> nor <text*count>")),
    };
    match (
        body.strip_prefix("0x"),
        body.strip_prefix("seq").filter(|seed| seed.chars().all(|c| c.is_ascii_digit())),
    ) {
        (Some(digits), _) => out.extend(hexadecimal(digits)?.repeat(count)),
        (None, Some(seed)) => out.extend(pattern(seed.parse().unwrap_or(0), count)),
        (None, None) => out.extend(body.as_bytes().repeat(count)),
    }
    Ok(())
}

fn hexadecimal(digits: &str) -> Result<Vec<u8>, String> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err(format!("`0x{digits}` needs pairs of hexadecimal digits"));
    }
    let pair = |at: usize| digits.get(at..at + 2).and_then(|p| u8::from_str_radix(p, 16).ok());
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(pair).collect();
    bytes.ok_or_else(|| format!("`0x{digits}` is not hexadecimal"))
}

/// `count` bytes that differ from those of another seed and repeat only after 251 * 241 bytes, so that a block put
/// at the wrong place shows.
pub fn pattern(seed: usize, count: usize) -> impl Iterator<Item = u8> {
    (0..count).map(move |i| (1 + (i + seed * 17) % 251 + (i / 251) % 241) as u8)
}

/// Bytes for a message: text where printable, `\xNN` elsewhere, shortened in the middle.
pub fn show_bytes(bytes: &[u8]) -> String {
    const ENDS: usize = 40;
    if bytes.len() > 2 * ENDS + 20 {
        let (head, tail) = (&bytes[..ENDS], &bytes[bytes.len() - ENDS..]);
        return format!("\"{}\"..\"{}\" ({} bytes)", head.escape_ascii(), tail.escape_ascii(), bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii())
}

/// Where two byte strings differ, in words that help: lengths, first differing offset, the bytes there.
pub fn show_difference(want: &[u8], got: &[u8]) -> String {
    let at = want.iter().zip(got).position(|(a, b)| a != b).unwrap_or(want.len().min(got.len()));
    let around = |b: &[u8]| show_bytes(&b[at.min(b.len())..(at + 16).min(b.len())]);
    format!(
        "{} (length {}, first difference at offset {at}: expected {}, got {})",
        show_bytes(got),
        got.len(),
        around(want),
        around(got)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        assert_eq!(bytes("a<0xff00>b<x*3><<").unwrap(), b"a\xff\0bxxx<");
        assert_eq!(bytes("<0x0102*2>").unwrap(), [1, 2, 1, 2]);
        assert_eq!(bytes("<seq*600>").unwrap().len(), 600);
        assert_ne!(bytes("<seq*600>").unwrap(), bytes("<seq1*600>").unwrap());
        let long = bytes("<seq*8192>").unwrap();
        assert_ne!(long[..4096], long[4096..]);
        for bad in ["<", "<x>", "<0xf>", "<0xzz>", "<x*y>"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(errno("ENOTSUP"), errno("EOPNOTSUPP"));
        assert_eq!(errno("ENOPE"), None);
        assert!(show_errno(Errno::NOENT).starts_with("ENOENT (No such file"));
        assert_eq!(flags("O_CREAT|O_EXCL").unwrap(), (libc::O_CREAT | libc::O_EXCL) as u64);
        assert!(flags("O_NOPE").unwrap_err().contains("O_NOPE"));
    }

    #[test]
    fn differences_name_the_offset() {
        let text = show_difference(b"abcdef", b"abXdef");
        assert!(text.contains("offset 2"), "{text}");
        assert!(show_difference(b"abc", b"ab").contains("offset 2"));
    }
}
