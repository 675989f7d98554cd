//! What came of a request.

use crate::types::*;
use std::fmt;

/// What a request was answered with: so many bytes of the area, an errno, or nothing, where no answer is due.
///
/// One number. An `Option<Result<usize>>` is what it means, and what it is [taken apart](Self::get) into, but not what goes
/// from hand to hand: that is copied in pieces which are not those it was stored in, and for each such copy a processor waits
/// until its stores are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered(i64);

impl Answered {
    /// No answer is due.
    pub const NOTHING: Self = Self(i64::MIN);

    /// The length of the answer in the area, or the errno; `None` if no answer is due.
    #[inline]
    pub const fn get(self) -> Option<Result<usize>> {
        match self.0 {
            i64::MIN => None,
            0.. => Some(Ok(self.0 as usize)),
            _ => Some(Err(Errno::from_raw_os_error(-self.0 as i32))),
        }
    }
}

impl From<Result<usize>> for Answered {
    #[inline]
    fn from(result: Result<usize>) -> Self {
        match result {
            Ok(len) => Self(len as i64),
            Err(errno) => Self(-i64::from(errno.raw_os_error())),
        }
    }
}

impl From<Option<Result<usize>>> for Answered {
    #[inline]
    fn from(answer: Option<Result<usize>>) -> Self {
        answer.map_or(Self::NOTHING, Self::from)
    }
}

/// In words.
impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            None => f.write_str("no answer"),
            Some(Ok(len)) => write!(f, "{len} bytes"),
            Some(Err(errno)) => errno.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_made_of() {
        for answer in
            [None, Some(Ok(0)), Some(Ok(1 << 20)), Some(Err(Errno::PERM)), Some(Err(Errno::HWPOISON))]
        {
            assert_eq!(Answered::from(answer).get(), answer);
        }
        assert_eq!(Answered::from(Err(Errno::NOENT)).to_string(), Errno::NOENT.to_string());
    }
}
