//! What an error means for an entry of the ring.

use crate::types::Errno;

/// Which command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `FUSE_IO_URING_CMD_REGISTER`.
    Register,
    /// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
    Commit,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Register the entry (again).
    Register,
    /// The connection is gone: unmounted or aborted.
    Close,
    /// This entry cannot be used; others may go on.
    GiveUp,
}

/// An error of a command (`fuse_uring_cmd` and what it calls, Linux 6.14 to 7.3).
pub(super) fn remedy(command: Command, errno: Errno) -> Remedy {
    match (command, errno) {
        (_, Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV) => Remedy::Close,
        // INIT is not through yet; or a signal.
        (Command::Register, Errno::AGAIN | Errno::INTR) => Remedy::Register,
        // The ring is being closed.
        (_, Errno::CANCELED) => Remedy::Close,
        // Not negotiated, buffers too small, no such queue, no memory.
        (Command::Register, _) => Remedy::GiveUp,
        // The request is gone, and with it the entry's place in its queue.
        (Command::Commit, _) => Remedy::Register,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_connection_ends_every_entry() {
        for command in [Command::Register, Command::Commit] {
            for errno in [Errno::NOTCONN, Errno::CONNABORTED, Errno::NODEV, Errno::CANCELED] {
                assert_eq!(remedy(command, errno), Remedy::Close);
            }
        }
    }

    #[test]
    fn too_early_is_tried_again_and_impossible_is_not() {
        assert_eq!(remedy(Command::Register, Errno::AGAIN), Remedy::Register);
        for errno in [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOMEM] {
            assert_eq!(remedy(Command::Register, errno), Remedy::GiveUp);
        }
    }

    #[test]
    fn a_lost_request_does_not_cost_the_entry() {
        assert_eq!(remedy(Command::Commit, Errno::NOENT), Remedy::Register);
    }
}
