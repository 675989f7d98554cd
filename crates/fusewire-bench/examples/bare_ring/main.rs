//! The least that answers GETATTR over io_uring: one entry and one thread for each CPU, one system call for each request, and nothing
//! else. No daemon is faster on the same kernel; what a daemon adds to it is its own.
//!
//!     bare_ring MNT

mod sys;

use anyhow::{Context, Result, bail, ensure};
use fusewire_abi::{
    AttrOut, InHeader, InitFlags, InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, Opcode, OutHeader,
    UringReqHeader,
};
use rustix::{
    fs::{Mode, OFlags},
    mount::MountFlags,
    thread::{CpuSet, sched_setaffinity},
};
use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
};
use sys::Ring;
use zerocopy::{FromBytes, IntoBytes};

/// No request is longer.
const MAX_WRITE: u32 = 4096;
/// What the kernel asks for at least (`fuse_uring_create`).
const PAYLOAD: usize = 1 << 20;

fn main() -> Result<()> {
    let mnt = std::env::args().nth(1).context("bare_ring MNT")?;
    let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    rustix::mount::mount(c"bare", &*mnt, c"fuse.bare", MountFlags::empty(), Some(&*CString::new(options)?))
        .with_context(|| format!("cannot mount at {mnt}"))?;
    agree(device.as_fd())?;
    let cpus = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last: u16 = cpus.trim().rsplit('-').next().context("no CPUs")?.parse()?;
    thread::scope(|scope| {
        for cpu in 0..=last {
            let device = &device;
            scope.spawn(move || {
                if let Err(error) = serve(device.as_fd(), cpu) {
                    eprintln!("queue {cpu}: {error:#}");
                    std::process::exit(1);
                }
            });
        }
        companion(device.as_fd())
    })
}

/// Answer INIT: requests are to come over io_uring.
fn agree(device: BorrowedFd<'_>) -> Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let len = rustix::io::read(device, &mut *bytes)?;
    let (header, rest) = InHeader::read_from_prefix(&bytes[..len]).ok().context("no header")?;
    ensure!(header.opcode == Opcode::Init as u32, "the first request is no INIT");
    let (init, _) = InitIn::read_from_prefix(rest).ok().context("a short INIT")?;
    let offered = u64::from(init.flags) | u64::from(init.flags2) << 32;
    let wanted = InitFlags::OVER_IO_URING | InitFlags::INIT_EXT | InitFlags::MAX_PAGES;
    if offered & wanted.bits() != wanted.bits() {
        bail!("the kernel offers no ring: echo Y > /sys/module/fuse/parameters/enable_uring");
    }
    let out = InitOut {
        major: KERNEL_VERSION,
        minor: KERNEL_MINOR_VERSION,
        max_readahead: init.max_readahead,
        flags: wanted.bits() as u32,
        flags2: (wanted.bits() >> 32) as u32,
        max_write: MAX_WRITE,
        max_pages: 1,
        ..Default::default()
    };
    answer(device, header.unique, 0, out.as_bytes())
}

fn answer(device: BorrowedFd<'_>, unique: u64, error: i32, body: &[u8]) -> Result<()> {
    let len = (size_of::<OutHeader>() + body.len()) as u32;
    let bytes = [OutHeader { len, error, unique }.as_bytes(), body].concat();
    match rustix::io::write(device, &bytes) {
        // Whoever asked does not wait any more.
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What still comes over the device: FORGET, and what was sent before the ring was there.
fn companion(device: BorrowedFd<'_>) -> Result<()> {
    let mut bytes = vec![0; 1 << 20];
    loop {
        let len = match rustix::io::read(device, &mut *bytes) {
            Ok(len) => len,
            Err(rustix::io::Errno::NODEV) => std::process::exit(0),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => continue,
            Err(error) => bail!("cannot read /dev/fuse: {error}"),
        };
        let (header, _) = InHeader::read_from_prefix(&bytes[..len]).ok().context("no header")?;
        let is_answered = ![Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt]
            .iter()
            .any(|&opcode| header.opcode == opcode as u32);
        if is_answered {
            let (error, body) = result(header.opcode);
            answer(device, header.unique, error, body.as_ref().map_or(&[], IntoBytes::as_bytes))?;
        }
    }
}

/// The answer to any request.
fn result(opcode: u32) -> (i32, Option<AttrOut>) {
    if opcode != Opcode::Getattr as u32 {
        return (-libc::ENOSYS, None);
    }
    let mut out = AttrOut::default();
    (out.attr.ino, out.attr.mode, out.attr.nlink) = (1, libc::S_IFDIR | 0o755, 2);
    (0, Some(out))
}

/// Serve the queue of a CPU, there.
fn serve(device: BorrowedFd<'_>, cpu: u16) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu.into());
    sched_setaffinity(None, &cpus)?;
    let mut ring = Ring::new(device, cpu, PAYLOAD)?;
    ring.register();
    while ring.wait()? {
        let (head, payload) = ring.entry();
        reply(head, payload);
        ring.commit();
    }
    Ok(())
}

fn reply(head: &mut UringReqHeader, payload: &mut [u8]) {
    let Ok((header, _)) = InHeader::read_from_prefix(&head.in_out) else { return };
    let (error, body) = result(header.opcode);
    let body = body.as_ref().map_or(&[][..], IntoBytes::as_bytes);
    payload[..body.len()].copy_from_slice(body);
    let out = OutHeader { len: (size_of::<OutHeader>() + body.len()) as u32, error, unique: header.unique };
    head.in_out[..size_of_val(&out)].copy_from_slice(out.as_bytes());
    head.ring_ent_in_out.payload_sz = body.len() as u32;
}
