//! QEMU with directories that daemons share: what they are plugged into.

use super::packages::Qemu;
use std::{path::Path, process::Command};

/// A device, at the socket of its daemon.
#[derive(Clone, Copy, Debug)]
pub enum Plug<'a> {
    /// QEMU's own device for virtio-fs, which tells the guest the tag and knows of no window.
    Fs { tag: &'a str, queues: usize },
    /// Its generic vhost-user device, which asks the daemon for everything, a window of shared memory included.
    Generic { queues: usize },
}

/// A machine without acceleration, all of whose memory is shared with the daemons.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub cpus: usize,
    /// Memory, as QEMU takes it.
    pub memory: &'a str,
    /// One more word for the guest's kernel.
    pub word: &'a str,
}

impl Board<'_> {
    /// The command that boots it, its serial line being standard output.
    pub fn command(&self, qemu: &Qemu, plugs: &[(&Path, Plug<'_>)]) -> Command {
        let Self { kernel, initrd, cpus, memory, word } = self;
        let mut command = qemu.command();
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35,memory-backend=mem"]);
        command.args(["-smp", &cpus.to_string(), "-m", memory, "-object"]);
        command.arg(format!("memory-backend-memfd,id=mem,size={memory},share=on"));
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]);
        for (number, (socket, plug)) in plugs.iter().enumerate() {
            command.arg("-chardev").arg(format!("socket,id=share{number},path={}", socket.display()));
            let device = match plug {
                Plug::Fs { tag, queues } => format!(
                    "vhost-user-fs-pci,chardev=share{number},tag={tag},num-request-queues={queues},queue-size=1024"
                ),
                // One queue more is for what has to be quick.
                Plug::Generic { queues } => format!(
                    "vhost-user-test-device-pci,chardev=share{number},virtio-id=26,num_vqs={},vq_size=1024,config_size=44",
                    queues + 1
                ),
            };
            command.args(["-device", &device]);
        }
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        let line =
            "console=ttyS0 quiet loglevel=5 panic=-1 tsc=reliable no_timer_check mitigations=off nokaslr";
        command.args(["-append", format!("{line} {word}").trim_end()]);
        command
    }
}
