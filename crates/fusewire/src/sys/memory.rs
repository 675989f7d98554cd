//! Giving memory back without freeing it.

/// A multiple of every page size there is.
const PAGE: usize = 64 << 10;

/// Give back the whole pages of `bytes` (to a multiple of 64 KiB); they are zero afterwards if they are this process's own.
pub(crate) fn discard(bytes: &mut [u8]) {
    let skip = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
    let whole = &mut bytes[skip..];
    let len = whole.len() / PAGE * PAGE;
    if len > 0 {
        // SAFETY: the range lies within `bytes`, which is borrowed exclusively, so nobody relies on what it holds; afterwards it holds
        // zeros or what it held before, and any byte is a valid `u8`. The mapping itself stays. Failure changes nothing.
        unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_DONTNEED) };
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
