//! The system calls that serving takes.

use std::collections::BTreeMap;

use clap::ValueEnum;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule,
};

use crate::failure::{Failure, Outcome};

/// What happens at a system call that is not on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// There is no list
    None,
    /// The process is killed
    #[default]
    Kill,
    /// The kernel logs it and lets it through
    Log,
    /// The process gets SIGSYS
    Trap,
}

/// System calls that are let through whatever their arguments are.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Answered by the other filter, see `apply`.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_restart_syscall,
    // Signals: to itself only, it sees no others.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // In whose name.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgroups,
    libc::SYS_umask,
    // Waiting, and talking to the monitor.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_lseek,
    // Data.
    libc::SYS_copy_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_write,
    libc::SYS_writev,
    // Names and attributes.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_open_by_handle_at,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    // Being told of changes.
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
];

/// What this processor has besides.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// `PR_GET_AUXV`: where the kernel has put its clock; rustix asks when it first needs to know.
const PR_GET_AUXV: u64 = 0x4155_5856;

/// System calls that are let through if an argument is right.
fn conditional() -> Result<Vec<(i64, Vec<Rule>)>, seccompiler::BackendError> {
    let bits_clear = |index, mask| Condition::new(index, Len::Dword, Op::MaskedEq(mask), 0);
    let is = |index, value| Condition::new(index, Len::Dword, Op::Eq, value);
    let executable = libc::PROT_EXEC as u64;
    let spaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u64;
    let one_of = |index: u8, values: &[u64]| -> Result<Vec<Rule>, seccompiler::BackendError> {
        values.iter().map(|value| Rule::new(vec![is(index, *value)?])).collect()
    };
    // Threads are made, processes and namespaces are not.
    let thread =
        Condition::new(0, Len::Qword, Op::MaskedEq(libc::CLONE_THREAD as u64), libc::CLONE_THREAD as u64)?;
    Ok(vec![
        (libc::SYS_mmap, vec![Rule::new(vec![bits_clear(2, executable)?])?]),
        (libc::SYS_mprotect, vec![Rule::new(vec![bits_clear(2, executable)?])?]),
        (libc::SYS_clone, vec![Rule::new(vec![thread, bits_clear(0, spaces)?])?]),
        // A thread's own umask and working directory.
        (libc::SYS_unshare, one_of(0, &[libc::CLONE_FS as u64])?),
        (
            libc::SYS_prctl,
            one_of(
                0,
                &[
                    libc::PR_SET_NAME as u64,
                    libc::PR_GET_NAME as u64,
                    libc::PR_SET_TIMERSLACK as u64,
                    PR_GET_AUXV,
                    // What the allocator calls its memory.
                    libc::PR_SET_VMA as u64,
                ],
            )?,
        ),
        // To tell systemd.
        (libc::SYS_socket, one_of(0, &[libc::AF_UNIX as u64])?),
        // Its own limits, never another process's.
        (libc::SYS_prlimit64, one_of(0, &[0])?),
        // What `ioctl`s a guest may do to files is decided where they are decoded; terminals are out of reach of all of them.
        (
            libc::SYS_ioctl,
            vec![Rule::new(vec![
                Condition::new(1, Len::Dword, Op::Ne, libc::TIOCSTI)?,
                Condition::new(1, Len::Dword, Op::Ne, libc::TIOCLINUX)?,
            ])?],
        ),
    ])
}

/// The filter.
fn filter(action: SeccompAction) -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<Rule>> =
        ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    rules.extend(conditional()?);
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, action, SeccompAction::Allow, architecture)?.try_into()?)
}

/// Puts the filter on this thread and those that it starts. `clone3` is answered as by a kernel that does not have it: its
/// arguments cannot be looked at, and the C library then uses `clone`.
///
/// # Errors
/// If there can be no filter.
pub fn apply(action: Action) -> Outcome<()> {
    let otherwise = match action {
        Action::None => return Ok(()),
        Action::Kill => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trap => SeccompAction::Trap,
    };
    let put = || -> Result<(), Box<dyn std::error::Error>> {
        let architecture = std::env::consts::ARCH.try_into()?;
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let absent = SeccompAction::Errno(libc::ENOSYS as u32);
        let absent: BpfProgram =
            SeccompFilter::new(unknown, SeccompAction::Allow, absent, architecture)?.try_into()?;
        seccompiler::apply_filter(&absent)?;
        seccompiler::apply_filter(&filter(otherwise)?)?;
        Ok(())
    };
    put().map_err(|error| {
        Failure::new(format!("cannot limit what system calls there are: {error}"))
            .or_try("--seccomp none, on a kernel or a processor without seccomp filters")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_fits() {
        let length = filter(SeccompAction::KillProcess).expect("filter").len();
        assert!(length > ALLOWED.len() && length < 4096, "{length}");
    }
}
