//! A guest that gathers writes: what it holds back is there when it says so, with its own size and times.

use super::{
    device::{self, Device},
    image, machine,
    virtio::{FSX, Kit, LIMIT, SKIPPED},
};
use anyhow::{Result, ensure};
use std::{fs, os::unix::fs::MetadataExt, time::Instant};

/// What the guest does. `/mnt/kept` stays for the host to look at; it tells what it is to find.
const JOB: &str = "\
fail() { echo \"FAILED: $*\"; exit 1; }
mount -t virtiofs share /mnt || fail mount
mount -t tmpfs tmp /root
fusewire-posix --quiet SKIPPED /mnt || fail fusewire-posix
if [ -e /usr/bin/fsx ]; then
    fsx -f /fsx.toml -P /tmp -N OPERATIONS -S 1 /mnt/fsx > /tmp/fsx.log 2>&1 || { tail -n 50 /tmp/fsx.log; fail fsx; }
    tail -n 1 /tmp/fsx.log
fi
rm -rf /mnt/*
n=0; while [ $n -lt 400 ]; do echo \"line $n\" >> /mnt/kept; n=$((n+1)); done
printf 'in the middle' | dd of=/mnt/kept bs=1 seek=2000 conv=notrunc 2>/dev/null || fail dd
sh -c 'printf late; sleep 1; printf r' >> /mnt/kept
sync /mnt/kept
dd if=/mnt/kept of=/mnt/copy bs=777 2>/dev/null || fail copy
touch -d '2001-09-09 01:46:40' /mnt/copy || fail touch
[ \"$(stat -c %Y /mnt/copy)\" = \"$(date -d '2001-09-09 01:46:40' +%s)\" ] || fail 'the time of the copy'
echo \"kept: $(stat -c '%s %Y' /mnt/kept) $(md5sum < /mnt/kept | cut -d' ' -f1)\"
echo \"copy: $(stat -c '%s %Y' /mnt/copy) $(md5sum < /mnt/copy | cut -d' ' -f1)\"
umount /mnt || fail umount
exit 0";

/// Cases of the POSIX suite that ask for what a guest does not have that gathers writes.
const GATHERED: [(&str, &str); 1] =
    [("allocate-punch", "a file takes no blocks before what was written to it is sent")];

/// With each caching profile that keeps data.
pub fn run(kit: &Kit, operations: u32) -> Result<()> {
    let mut programs = device::programs()?;
    programs.extend(kit.modules()?);
    let skipped: Vec<_> =
        SKIPPED.iter().chain(&GATHERED).map(|(case, why)| format!("--skip '{case}={why}'")).collect();
    let job = JOB.replace("OPERATIONS", &operations.to_string()).replace("SKIPPED", &skipped.join(" "));
    let initrd = image::build(&kit.store, &programs, &format!("cat > /fsx.toml <<'END'\n{FSX}END\n{job}"))?;
    for profile in [&["auto", "--writeback"][..], &["always", "--writeback"]] {
        let start = Instant::now();
        let share = kit.store.dir().join("writeback");
        _ = fs::remove_dir_all(&share);
        fs::create_dir_all(&share)?;
        fs::write(share.join("there"), "there\n")?;
        let device = Device::start(&share, &["sock"], profile)?;
        eprintln!("xtask: User Mode Linux, --cache {}", profile.join(" "));
        let mut told = Vec::new();
        machine::watch(&mut kit.uml(&initrd, Some(&device.sockets[0]), "")?, LIMIT, |line| {
            for name in ["kept", "copy"] {
                told.extend(line.strip_prefix(&format!("{name}: ")).map(|rest| (name, rest.to_owned())));
            }
        })?;
        device.end()?;
        ensure!(told.len() == 2, "the guest told of {told:?}");
        for (name, there) in told {
            let path = share.join(name);
            let meta = fs::metadata(&path)?;
            let sum = device::md5(&path)?;
            let here = format!("{} {} {sum}", meta.size(), meta.mtime());
            ensure!(
                here == there,
                "{name}: size, time and sum were {there} in the guest and are {here} here"
            );
        }
        eprintln!("xtask: guest: {}: done in {} s", profile.join(" "), start.elapsed().as_secs());
    }
    Ok(())
}
