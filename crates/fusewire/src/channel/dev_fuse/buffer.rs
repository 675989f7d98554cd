//! Memory of one slot.

/// Alignment of data in a request and in an answer: a page, which every kind of `O_DIRECT` accepts.
const PAGE: usize = 4096;

/// Bytes with a page border inside: what stands before it is a header, what begins there is data.
///
/// Zeroed memory of this size comes straight from the kernel, so pages that are never touched are never there.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    border: usize,
}

impl Buffer {
    /// Room for `before` (at most a page) bytes before the border and `after` from it on.
    pub(super) fn new(before: usize, after: usize) -> Self {
        assert!(before <= PAGE);
        let bytes = vec![0u8; after + 2 * PAGE];
        let border = PAGE + bytes.as_ptr().align_offset(PAGE) % PAGE;
        Self { bytes, border }
    }

    /// From `before` bytes before the border to `after` behind it.
    pub(super) fn around(&mut self, before: usize, after: usize) -> &mut [u8] {
        &mut self.bytes[self.border - before..self.border + after]
    }

    /// The same, to read.
    pub(super) fn view(&self, before: usize, len: usize) -> &[u8] {
        &self.bytes[self.border - before..][..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_begins_at_a_page() {
        for after in [1, 4096, 1 << 20] {
            let mut buffer = Buffer::new(80, after);
            assert_eq!(buffer.around(0, after).as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.around(80, after).len(), 80 + after);
        }
    }
}
