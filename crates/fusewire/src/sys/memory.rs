//! Giving memory back without freeing it.

/// A multiple of every page size there is.
const PAGE: usize = 64 << 10;

/// Give back the whole pages of `bytes` (to a multiple of 64 KiB); they are zero afterwards if they are this process's own.
pub(crate) fn discard(bytes: &mut [u8]) {
    // SAFETY: `bytes` is borrowed exclusively, so nobody relies on what it holds, and any byte is a valid `u8`.
    unsafe { discard_at(bytes.as_mut_ptr(), bytes.len()) };
}

/// The same of `len` bytes from `at` on.
///
/// # Safety
/// They must lie within one mapping, and nobody may rely on what they hold.
pub(super) unsafe fn discard_at(at: *mut u8, len: usize) {
    let skip = at.align_offset(PAGE).min(len);
    let len = (len - skip) / PAGE * PAGE;
    if len > 0 {
        // SAFETY: the range lies within what the caller gives; afterwards it holds zeros or what it held before. The mapping itself
        // stays. Failure changes nothing.
        unsafe { libc::madvise(at.add(skip).cast(), len, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_inside_are_given_back() {
        let mut bytes = vec![7u8; 1 << 20];
        discard(&mut bytes[10..(1 << 20) - 10]);
        assert_eq!(bytes[..10], [7; 10]);
        assert_eq!(bytes[(1 << 20) - 10..], [7; 10]);
        assert!(bytes.iter().filter(|&&byte| byte == 0).count() >= (1 << 20) - 2 * PAGE - 20);
    }
}
