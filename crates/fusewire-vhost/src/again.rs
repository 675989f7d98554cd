//! Requests that somebody may have carried out already: the process before this one was killed between doing what they ask for and
//! noting the answer. What may be done twice is. Of the rest, an error that says that it was done is taken for what it says, as NFS
//! clients do when they repeat a request.

use crate::chain::Request;
use fusewire::types::Errno;
use fusewire_abi::{CreateIn, Opcode};

/// What an answer to such a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// What it says.
    Itself,
    /// That it was done before.
    Done,
    /// That what was to be made is there: the request, which was changed, finds it.
    Look,
}

/// Is it better not done at all than twice? A lookup that is forgotten twice takes a file from the guest that it still uses; one that is
/// not forgotten costs memory until the guest unmounts.
pub(crate) fn is_better_left(request: &Request) -> bool {
    let opcode = request.header.opcode;
    request.again && (opcode == Opcode::Forget as u32 || opcode == Opcode::BatchForget as u32)
}

/// What `errno`, the answer to a request that is done again, means; the request is changed if it is to be served once more.
pub(crate) fn means(request: &mut Request, errno: Errno) -> Means {
    let is = |opcodes: &[Opcode]| opcodes.iter().any(|&opcode| opcode as u32 == request.header.opcode);
    let removes = [Opcode::Unlink, Opcode::Rmdir, Opcode::Rename, Opcode::Rename2];
    let means = match errno {
        Errno::NOENT if is(&removes) => Means::Done,
        Errno::NODATA if is(&[Opcode::Removexattr]) => Means::Done,
        Errno::EXIST if is(&[Opcode::Setxattr]) => Means::Done,
        // Closed by the one before; what it was of needs nothing more.
        Errno::BADF if is(&[Opcode::Release, Opcode::Releasedir]) => Means::Done,
        Errno::EXIST if is(&[Opcode::Mkdir, Opcode::Mknod, Opcode::Symlink, Opcode::Link]) => {
            request.become_lookup();
            Means::Look
        }
        Errno::EXIST if is(&[Opcode::Create]) => {
            request.become_open();
            Means::Look
        }
        _ => Means::Itself,
    };
    request.again = false;
    means
}

impl Request {
    /// Look the name up that it was to make: the answers are alike.
    fn become_lookup(&mut self) {
        let name = self.payload().split_inclusive(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        self.header.opcode = Opcode::Lookup as u32;
        self.replace(0, name);
    }

    /// Open the file that it was to make.
    fn become_open(&mut self) {
        const EXCLUSIVE: u32 = libc::O_EXCL as u32;
        let (args, mut bytes) = (size_of::<CreateIn>(), self.copy());
        if let Some(flags) = bytes.first_chunk_mut() {
            *flags = (u32::from_ne_bytes(*flags) & !EXCLUSIVE).to_ne_bytes();
        }
        self.replace(args, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_abi::InHeader;

    fn again(opcode: Opcode, args: usize, bytes: &[u8]) -> Request {
        let mut request = Request::default();
        request.header = InHeader { opcode: opcode as u32, ..InHeader::default() };
        request.again = true;
        request.replace(args, bytes.to_vec());
        request
    }

    #[test]
    fn errors_that_say_it_was_done_are_believed_once() {
        let mut unlink = again(Opcode::Unlink, 0, b"a\0");
        assert_eq!(means(&mut unlink, Errno::ACCESS), Means::Itself);
        assert!(!unlink.again);
        assert_eq!(means(&mut again(Opcode::Unlink, 0, b"a\0"), Errno::NOENT), Means::Done);
        assert_eq!(means(&mut again(Opcode::Lookup, 0, b"a\0"), Errno::NOENT), Means::Itself);
        assert!(is_better_left(&again(Opcode::Forget, 8, &[0; 8])));
        let mut forget = again(Opcode::Forget, 8, &[0; 8]);
        forget.again = false;
        assert!(!is_better_left(&forget));
    }

    #[test]
    fn what_was_to_be_made_is_looked_for() {
        let mut symlink = again(Opcode::Symlink, 0, b"name\0target\0");
        assert_eq!(means(&mut symlink, Errno::EXIST), Means::Look);
        assert_eq!((symlink.header.opcode, symlink.payload()), (Opcode::Lookup as u32, &b"name\0"[..]));
        assert_eq!(symlink.header.len as usize, size_of::<InHeader>() + 5);
        let mut create = again(Opcode::Create, 16, &[&0o302u32.to_ne_bytes()[..], &[0; 12], b"a\0"].concat());
        assert_eq!(means(&mut create, Errno::EXIST), Means::Look);
        assert_eq!(create.message().args[..4], 0o102u32.to_ne_bytes());
        assert_eq!((create.header.opcode, create.payload()), (Opcode::Create as u32, &b"a\0"[..]));
    }
}
