//! Locks of open files that have just been closed.
//!
//! Locks of an open file (`flock`, `F_OFD_SETLK`) end with it, and of that the kernel tells after `close` has returned
//! (`fuse_release_common` sends RELEASE in the background). So a lock that cannot be had may be one that was just given up,
//! its RELEASE still on the way, or read by a thread that another has overtaken: it is tried for again, a few times.

use fusewire::Context;
use std::{thread, time::Duration};

/// How long each attempt waits. In all it is less than anybody who tries in vain notices, and more than a RELEASE
/// takes whose thread waits for its turn on a busy CPU.
const PAUSES: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(4)];

/// Try for a lock again that was `refused`, for as long as it may take until the kernel has told of the end of an open file.
pub(crate) async fn once_closed<R>(
    cx: &Context,
    mut refused: R,
    is_refused: impl Fn(&R) -> bool,
    again: impl Fn() -> R,
) -> R {
    for pause in PAUSES {
        if !is_refused(&refused) || cx.is_cancelled() {
            break;
        }
        cx.blocking(move || thread::sleep(pause)).await;
        refused = again();
    }
    refused
}
