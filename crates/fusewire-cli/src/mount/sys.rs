//! What serving a mount needs of the system that has no safe wrapper.
#![allow(unsafe_code)]

use std::io;

/// Keeps programs that are started from now on from inheriting any descriptor but the three standard ones: a lock or a
/// pipe of whoever called would be held for as long as the mount lasts.
///
/// # Errors
/// `ENOSYS` or `EINVAL` from kernels before 5.11.
pub fn keep_descriptors() -> io::Result<()> {
    /// `CLOSE_RANGE_CLOEXEC`.
    const CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: with this flag nothing is closed, so every descriptor stays valid for who owns it; no pointers are passed.
    let status = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Give back what memory the program's own code takes that was needed to start. What is used again is mapped again from
/// its file.
pub fn forget_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = std::env::current_exe() else { return };
    for (start, end) in maps.lines().filter_map(|line| code_of(line, &program)) {
        // SAFETY: this is a private mapping of the program's file that may be executed and not written: its pages hold what the
        // file holds, before and after. Nothing of it is borrowed as memory that could change.
        _ = unsafe { rustix::mm::madvise(start as *mut _, end - start, rustix::mm::Advice::LinuxDontNeed) };
    }
}

/// First and last address of a line of `/proc/self/maps`, if that is code of this file.
fn code_of(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let (addresses, rest) = line.split_once(' ')?;
    let is_code = rest.starts_with("r-xp ") && rest.ends_with(&format!(" {}", program.display()));
    let (start, end) = addresses.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    is_code.then(|| Some((number(start)?, number(end)?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_given_back() {
        let program = std::path::Path::new("/usr/bin/fusewire");
        let code =
            "55d0c0000000-55d0c0800000 r-xp 00200000 fe:00 123                        /usr/bin/fusewire";
        assert_eq!(code_of(code, program), Some((0x55d0_c000_0000, 0x55d0_c080_0000)));
        for other in
            [code.replace("r-xp", "rwxp"), code.replace("r-xp", "r--p"), code.replace("bin/", "bin/x")]
        {
            assert_eq!(code_of(&other, program), None, "{other}");
        }
        forget_code();
        assert_eq!(code_of(code, program), Some((0x55d0_c000_0000, 0x55d0_c080_0000)), "it runs as before");
    }
}
