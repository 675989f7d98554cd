//! Groups of whoever asks: the kernel sends one at most, and the directory goes by all.

use super::*;
use rustix::process::{Gid, Uid};
use std::{
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
};

const IDS: (u32, u32) = (1234, 2345);

/// A process with these ids, which does nothing.
struct Asking(Child);

impl Asking {
    fn start((uid, gid): (u32, u32), groups: &'static [u32]) -> Self {
        let become_it = move || {
            let groups: Vec<_> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_groups(&groups).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", "echo; read _"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.current_dir("/").spawn().unwrap()
        };
        // Of this thread alone, and of what it starts.
        let mut child = std::thread::scope(|scope| scope.spawn(become_it).join().unwrap());
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// What is made in `dir` by a caller of that number: whether it is permitted.
fn makes(kernel: &Kernel, dir: NodeId, pid: u32) -> Result<()> {
    kernel.set_caller(Caller { uid: IDS.0, gid: IDS.1, pid });
    let made = kernel.mkdir(dir, c"made", 0o755).map(drop);
    let removed = kernel.send(Opcode::Rmdir, dir.raw(), &[], b"made\0").wait().map(drop);
    assert_eq!(made.is_ok(), removed.is_ok(), "{made:?} {removed:?}");
    made
}

fn directory_of_group(dir: &Path, group: u32, mode: u32) {
    fs::create_dir(dir).unwrap();
    std::os::unix::fs::chown(dir, Some(0), Some(group)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn groups_that_the_kernel_does_not_send_are_those_of_the_process_that_asks() {
    if !is_root() {
        eprintln!("skipped: taking on ids needs root");
        return;
    }
    let (dir, kernel) = start(Options::default());
    directory_of_group(&dir.path().join("team"), 7000, 0o775);
    let team = node(&kernel.lookup(ROOT, c"team").unwrap());
    let member = Asking::start(IDS, &[6000, 7000, 7001]);
    assert_eq!(makes(&kernel, team, member.pid()), Ok(()));
    let stranger = Asking::start(IDS, &[6000, 7001]);
    assert_eq!(makes(&kernel, team, stranger.pid()), Err(Errno::ACCESS));
    assert_eq!(makes(&kernel, team, 0), Err(Errno::ACCESS), "nobody knows who asks");
    for (ids, what) in [((IDS.0, 1), "group"), ((1, IDS.1), "user")] {
        let other = Asking::start(ids, &[7000]);
        assert_eq!(makes(&kernel, team, other.pid()), Err(Errno::ACCESS), "it has another {what}");
    }
    let pid = member.pid();
    drop(member);
    assert_eq!(makes(&kernel, team, pid), Err(Errno::ACCESS), "it has ended");
    assert_eq!(makes(&kernel, team, stranger.pid()), Err(Errno::ACCESS), "threads are themselves again");
}

#[test]
fn a_file_that_is_there_is_opened_by_all_groups_of_whoever_asks() {
    if !is_root() {
        eprintln!("skipped: taking on ids needs root");
        return;
    }
    let (dir, kernel) = start(Options::default());
    let files = [("theirs", 0o660, true), ("not-theirs", 0o606, false)];
    for (name, mode, _) in files {
        let path = dir.path().join(name);
        fs::write(&path, "x").unwrap();
        std::os::unix::fs::chown(&path, Some(0), Some(7000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (member, stranger) = (Asking::start(IDS, &[7000]), Asking::start(IDS, &[6000]));
    for (file, _, for_members) in files {
        for (asking, is_member) in [(&member, true), (&stranger, false)] {
            kernel.set_caller(Caller { uid: IDS.0, gid: IDS.1, pid: asking.pid() });
            let opened = kernel.create(ROOT, &name(file), 0o644, libc::O_RDWR as u32).map(drop);
            let expected = if is_member == for_members { Ok(()) } else { Err(Errno::ACCESS) };
            assert_eq!(opened, expected, "{file}, member: {is_member}");
        }
        let meta = fs::metadata(dir.path().join(file)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (0, 7000));
    }
}

#[test]
fn groups_are_translated_as_all_ids_are() {
    if !is_root() {
        eprintln!("skipped: taking on ids needs root");
        return;
    }
    let rules = ["map:7000:9000:1", "forbid-guest:7001:1"].map(|rule| rule.parse().unwrap());
    let groups = IdMap::new(&rules).unwrap();
    let (dir, kernel) = start(Options { groups, ..Options::default() });
    for group in [7000, 7001, 9000] {
        directory_of_group(&dir.path().join(group.to_string()), group, 0o770);
    }
    let member = Asking::start(IDS, &[7000, 7001]);
    for (group, expected) in [("7000", Err(Errno::ACCESS)), ("7001", Err(Errno::ACCESS)), ("9000", Ok(()))] {
        let team = node(&kernel.lookup(ROOT, &name(group)).unwrap());
        assert_eq!(makes(&kernel, team, member.pid()), expected, "{group}");
    }
}
