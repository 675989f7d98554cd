//! Waking a thread out of a blocking system call.

use std::{io, mem::MaybeUninit, sync::OnceLock};

/// The signal that interrupts a blocking call: a real-time one, so that no application's own meaning is taken.
fn wake_signal() -> libc::c_int {
    libc::SIGRTMAX() - 3
}

extern "C" fn nothing(_: libc::c_int) {}

/// Install a handler that does nothing, without `SA_RESTART`: blocking calls return `EINTR`. Once per process.
pub(crate) fn install_wake_handler() -> io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let errno = *DONE.get_or_init(|| {
        // SAFETY: an all-zero `sigaction` is valid (no flags, empty mask); the handler is an `extern "C"` function that
        // touches nothing, hence async-signal-safe, and lives as long as the program.
        let rc = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = nothing as *const () as libc::sighandler_t;
            libc::sigaction(wake_signal(), &action, std::ptr::null_mut())
        };
        if rc == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) }
    });
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Send the wake signal to a thread of this process. A thread that is gone is no error.
pub(crate) fn wake_thread(tid: i32) {
    // SAFETY: `tgkill` takes plain numbers; the handler for the signal was installed before any tid was published.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, wake_signal()) };
}
