//! Every error says what is wrong, with the path or the word, and what helps.

use fusewire_tests::mount::{self, open_dev_fuse, readable_copy};
use fusewire_tests::program::{Finished, Program, as_user, program, shell};
use fusewire_tests::sandbox::{self, Sandbox};
use fusewire_tests::wait::{self, SOON};
use fusewire_tests::{command, mountinfo, need, skip, skip_unless};
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};

/// A command line of words, the exit status, and what standard error has to say.
type Case = (&'static str, i32, &'static [&'static str]);

/// What cannot be written there stands in capitals.
fn words(line: &str) -> Vec<String> {
    let spelled = |word: &str| word.replace("LONG", &"x".repeat(300)).replace("EMPTY", "");
    line.split_whitespace().map(spelled).collect()
}

/// Directories `src` and `mnt`, a file, and links that lead in a circle and to nothing.
fn furnished() -> Option<Sandbox> {
    let sandbox = sandbox::enter()?;
    if command::other_server().is_some() {
        skip::report("the stand-in server has other messages");
        return None;
    }
    for name in ["src", "src/inside", "mnt"] {
        sandbox.make_dir(name);
    }
    std::fs::write(sandbox.dir().join("file"), "text\n").unwrap();
    for (name, target) in [("loop", "loop"), ("dangling", "nothing")] {
        std::os::unix::fs::symlink(target, sandbox.dir().join(name)).unwrap();
    }
    Some(sandbox)
}

#[track_caller]
fn assert_says(done: &Finished, code: i32, parts: &[&str]) {
    assert_eq!(done.code(), Some(code), "{done}");
    for part in parts {
        assert!(done.stderr.contains(part), "`{part}` is not said:\n{done}");
    }
    assert!(!done.stderr.contains("panicked"), "{done}");
}

/// Runs each in the directory of the sandbox; nothing may be mounted by that.
#[track_caller]
fn assert_each(sandbox: &Sandbox, start: impl Fn() -> Program, cases: &[Case]) {
    for (line, code, parts) in cases {
        let done = start().args(words(line)).dir(sandbox.dir()).limit(30).run();
        assert_says(&done, *code, parts);
    }
    let left: Vec<_> =
        mountinfo::below(sandbox.dir()).into_iter().filter(mountinfo::Entry::is_fuse).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn fusewire() -> Program {
    program(command::binary())
}

const PATHS: &[Case] = &[
    ("mount loop mnt", 1, &["cannot mount loop on mnt", "symbolic links", "try: ", "namei -l"]),
    ("mount src loop", 1, &["cannot mount on loop", "symbolic links", "namei -l"]),
    ("mount src loop/x", 1, &["cannot mount on loop/x", "namei -l"]),
    ("mount LONG mnt", 1, &["cannot mount xxx", "name too long", "try: ", "a shorter path"]),
    ("mount src LONG", 1, &["cannot mount on xxx", "name too long", "a shorter path"]),
    ("mount missing mnt", 1, &["missing", "No such file", "try: mkdir -p missing"]),
    ("mount src missing", 1, &["cannot mount on missing", "mkdir -p missing"]),
    ("mount dangling mnt", 1, &["dangling", "try: ", "this symbolic link leads to nothing"]),
    ("mount src dangling", 1, &["cannot mount on dangling", "make what it leads to"]),
    ("mount file mnt", 1, &["file: Not a directory", "try: a directory"]),
    ("mount file/x mnt", 1, &["file/x: Not a directory", "try: a directory"]),
    ("mount src file", 1, &["cannot mount on file", "not a directory", "try: an existing directory"]),
    ("mount src file/x", 1, &["cannot mount on file/x", "name another directory"]),
    ("mount src src/inside", 1, &["would contain itself", "try: a mount point outside of"]),
    ("mount --daemon missing mnt", 1, &["missing", "No such file", "try: mkdir -p missing"]),
    ("mount --daemon src loop", 1, &["cannot mount on loop", "namei -l"]),
    ("mount --dry-run src loop", 1, &["cannot mount on loop", "namei -l"]),
    ("mount EMPTY mnt", 2, &["<SRC>", "--help"]),
    ("mount src EMPTY", 2, &["<MNT>", "--help"]),
    ("mount none mnt", 2, &["`none` is not a directory", "try: fusewire mount --fs mem none MNT"]),
    ("unmount loop", 1, &["cannot unmount loop", "symbolic links", "namei -l"]),
    ("unmount LONG", 1, &["cannot unmount xxx", "name too long", "a shorter path"]),
    ("unmount missing", 1, &["cannot unmount missing", "nothing is mounted there", "try: "]),
    ("unmount mnt", 1, &["mnt: nothing is mounted there", "try: "]),
    ("unmount file", 1, &["file: nothing is mounted there", "try: "]),
    ("unmount file/x", 1, &["cannot unmount file/x", "name another directory"]),
    ("unmount /proc", 1, &["/proc", "not a FUSE filesystem but proc", "use umount /proc"]),
    ("unmount EMPTY", 2, &["<MNT>", "--help"]),
    ("stats mnt", 1, &["mnt is no mount point", "try: "]),
    ("stats missing", 1, &["missing is no mount point", "try: "]),
    ("stats loop", 1, &["loop is no mount point", "try: "]),
    ("stats /proc", 1, &["/proc is no mount point", "try: "]),
    ("top --once mnt", 1, &["is mounted on mnt", "try: fusewire top --once"]),
    ("top --once /proc", 1, &["is mounted on /proc", "try: fusewire top --once"]),
    ("trace mnt", 1, &["is mounted on mnt", "try: fusewire top --once"]),
    ("trace LONG", 1, &["is mounted on xxx", "try: fusewire top --once"]),
    ("probe loop", 1, &["cannot probe loop", "try: ", "namei -l"]),
    ("probe LONG", 1, &["cannot probe xxx", "try: ", "a shorter path"]),
    ("probe file", 1, &["cannot probe file", "try: the directory it is in"]),
    ("probe missing", 1, &["cannot probe missing", "try: a directory that exists"]),
    ("install-helper --dir loop", 1, &["loop/mount.fuse.fusewire", "try: ", "namei -l"]),
    ("install-helper --dir LONG", 1, &["/mount.fuse.fusewire", "try: ", "a shorter path"]),
    ("install-helper --dir file", 1, &["file/mount.fuse.fusewire", "try: ", "directories"]),
    ("install-helper --dir missing", 1, &["missing/mount.fuse.fusewire", "try: a directory that exists"]),
    ("man file", 1, &["file", "try: a directory that you may write to"]),
    ("mount --log-file missing/log src mnt", 1, &["missing/log", "try: another file with --log-file"]),
    ("mount -o log_file=src src mnt", 1, &["src", "Is a directory", "try: another file with --log-file"]),
];

#[test]
fn wrong_paths() {
    let Some(sandbox) = furnished() else { return };
    assert_each(&sandbox, fusewire, PATHS);
}

const VALUES: &[Case] = &[
    ("mount --fs mem --size x none mnt", 2, &["--size", "131072, 128K or 1M"]),
    ("mount --fs mem --size 1T none mnt", 2, &["--size", "131072, 128K or 1M"]),
    ("mount --fs null --delay 5 none mnt", 2, &["--delay", "such as 500us, 2ms or 1s"]),
    ("mount --fs null --delay 11s none mnt", 2, &["--delay", "at most 10 s"]),
    ("mount --cache some src mnt", 2, &["--cache", "none, auto, coherent, always"]),
    ("mount --entry-timeout -1 src mnt", 2, &["--entry-timeout", "such as 1 or 0.25"]),
    ("mount --attr-timeout x src mnt", 2, &["--attr-timeout", "such as 1 or 0.25"]),
    ("mount --negative-timeout inf src mnt", 2, &["--negative-timeout", "or the word forever"]),
    ("mount --channel x src mnt", 2, &["--channel", "auto, dev-fuse, uring"]),
    ("mount --memory 1K src mnt", 2, &["--memory", "at least 1M"]),
    ("mount --buffers x src mnt", 2, &["--buffers", "auto, own, pool, pinned, zero-copy"]),
    ("mount --threads 0 src mnt", 2, &["--threads", "from 1 to 1024"]),
    ("mount --threads 1025 src mnt", 2, &["--threads", "from 1 to 1024"]),
    ("mount --threads x src mnt", 2, &["--threads", "from 1 to 1024"]),
    ("mount --poll x src mnt", 2, &["--poll", "off, auto, or fixed:US"]),
    ("mount --poll fixed:1001 src mnt", 2, &["--poll", "from 1 to 1000 microseconds"]),
    ("mount --placement x src mnt", 2, &["--placement", "auto or off"]),
    ("mount --max-write 1 src mnt", 2, &["--max-write", "from 4096 to"]),
    ("mount --max-write 4G src mnt", 2, &["--max-write", "from 4096 to"]),
    ("mount --file-handles x src mnt", 2, &["--file-handles", "auto, never, always"]),
    ("mount --passthrough x src mnt", 2, &["--passthrough", "auto, always, off"]),
    ("mount --opens x src mnt", 2, &["--opens", "auto, stateless, handles"]),
    ("mount --locks x src mnt", 2, &["--locks", "directory, mount"]),
    ("mount --kernel-answers x src mnt", 2, &["--kernel-answers", "auto, always, off"]),
    ("mount --fs x src mnt", 2, &["--fs", "passthrough, mem, null"]),
    ("mount --metrics x src mnt", 2, &["--metrics", "such as 9100"]),
    ("mount --metrics 99999 src mnt", 2, &["--metrics", "such as 9100"]),
    ("mount --metrics 192.0.2.1:80 src mnt", 1, &["192.0.2.1:80", "try: another port"]),
    ("mount --log x=y=z src mnt", 2, &["x=y=z", "try: a level"]),
    ("mount -o bogus src mnt", 2, &["-o bogus", "not known", "try: ", "cache="]),
    ("mount -o allow_root src mnt", 2, &["allow_root", "use allow_other,default_permissions", "try: "]),
    ("mount -o remount src mnt", 2, &["remount", "mount -i -o remount", "try: "]),
    ("mount -o fsname= src mnt", 2, &["fsname=", "leave the option out", "try: "]),
    ("mount -o max_read=1 src mnt", 2, &["max_read=1", "give a larger number", "try: "]),
    ("mount -o max_read=x src mnt", 2, &["max_read=x", "such as 131072", "try: "]),
    ("mount -o rootmode=1 src mnt", 2, &["rootmode=1", "leave it out", "try: "]),
    ("mount -o cache=x src mnt", 2, &["cache=x", "none, auto, coherent, always", "try: "]),
    ("mount -o threads=0 src mnt", 2, &["threads=0", "from 1 to 1024", "try: "]),
    ("mount -o threads src mnt", 2, &["-o threads", "threads=...", "try: "]),
    ("mount -o stats=1 src mnt", 2, &["stats=1", "no value", "try: "]),
    ("mount -o subtype=LONG src mnt", 1, &["`subtype`", "longer than 255 bytes", "give a shorter one"]),
    ("mount --bogus src mnt", 2, &["--bogus", "--help"]),
    ("stats --watch 0 mnt", 2, &["--watch", "from 0.1 to 86400"]),
    ("stats --watch x mnt", 2, &["--watch", "from 0.1 to 86400"]),
    ("top --interval 0", 2, &["--interval", "from 0.1 to 3600"]),
    ("top --stuck x", 2, &["--stuck", "such as 1 or 0.25"]),
    ("trace --pid x", 2, &["--pid", "a whole number from 1 to"]),
    ("trace --pid 0", 2, &["--pid", "a whole number from 1 to"]),
    ("trace --slow x", 2, &["--slow", "a whole number from 0 to"]),
    ("trace --count x", 2, &["--count", "a whole number from 1 to"]),
    ("trace --op bogus", 2, &["--op", "for example lookup"]),
    ("completions tcsh", 2, &["tcsh", "bash"]),
    ("mount src", 2, &["<MNT>", "--help"]),
    ("mount src mnt more", 2, &["more", "--help"]),
    ("unmount", 2, &["<MNT>", "--help"]),
    ("stats", 2, &["<MNT>", "--help"]),
    ("nosuch", 2, &["nosuch", "--help"]),
    ("vhost --shared-dir src --fd x", 2, &["--fd", "a whole number from 0 to"]),
    ("vhost --shared-dir src --socket-path s --queues 0", 2, &["--queues", "a whole number from 1 to"]),
    ("vhost --shared-dir src --socket-path s --rlimit-nofile x", 2, &["--rlimit-nofile", "a whole number"]),
    ("vhost --shared-dir src --socket-path s --lease 5000", 2, &["--lease", "from 0 to 3600"]),
];

#[test]
fn values_out_of_range() {
    let Some(sandbox) = furnished() else { return };
    assert_each(&sandbox, fusewire, VALUES);
}

const CONFLICTS: &[Case] = &[
    ("mount --private --allow-other src mnt", 2, &["--private", "--allow-other", "--help"]),
    ("mount -o private,allow_other src mnt", 2, &["exclude each other", "try: one of them"]),
    ("mount -q -v src mnt", 2, &["--quiet", "--verbose", "--help"]),
    ("mount --size 1M src mnt", 2, &["size belongs to --fs mem", "try: the same without it"]),
    ("mount -o delay=2ms src mnt", 2, &["delay belongs to --fs null", "try: the same without it"]),
    ("mount --fs mem src mnt", 2, &["src would not be shown", "try: fusewire mount --fs mem none mnt"]),
    ("mount --fs mem --locks mount none mnt", 2, &["locks belongs to", "try: the same without it"]),
    ("mount --channel dev-fuse --memory 4M src mnt", 2, &["memory is about", "try: --channel uring"]),
    ("mount --opens stateless src mnt", 2, &["--opens stateless", "try: the same with --cache always"]),
    ("unmount --lazy --abort mnt", 2, &["--lazy", "--abort", "--help"]),
    ("vhost --socket-path s", 2, &["--shared-dir", "--help"]),
    ("vhost --shared-dir src", 2, &["--socket-path", "--help"]),
    ("vhost --shared-dir src --socket-path s --lease 5", 2, &["--lease", "try: --cache shared"]),
    ("vhost --shared-dir src --socket-path s --config file", 2, &["--config", "--help"]),
    (
        "vhost --shared-dir missing --socket-path s",
        1,
        &["cannot share missing", "try: write a path that exists"],
    ),
    ("vhost --shared-dir file --socket-path s", 1, &["cannot share file", "try: the directory it is in"]),
    ("vhost --shared-dir loop --socket-path s", 1, &["cannot share loop", "try: ", "namei -l"]),
    ("vhost --shared-dir src --socket-path missing/s", 1, &["missing/s", "try: another --socket-path"]),
    (
        "vhost --shared-dir src --socket-path file",
        1,
        &["cannot listen at file", "try: another --socket-path"],
    ),
    (
        "vhost --shared-dir src --socket-path s --socket-group no-such-group",
        2,
        &["no-such-group", "try: a group that getent group shows"],
    ),
    ("vhost --shared-dir src --fd 77", 2, &["--fd 77", "try: the number of a listening socket"]),
    ("vhost --config missing", 1, &["cannot read missing", "try: a file as docs/vhost.toml"]),
    ("vhost --config file", 1, &["file:1:", "try: "]),
];

#[test]
fn options_that_do_not_go_together() {
    let Some(sandbox) = furnished() else { return };
    assert_each(&sandbox, fusewire, CONFLICTS);
}

#[test]
fn the_helper_of_mount_8_refuses_in_its_own_words() {
    let Some(sandbox) = furnished() else { return };
    let helper = sandbox.dir().join("mount.fuse.fusewire");
    std::os::unix::fs::symlink(command::mount_helper(), &helper).unwrap();
    let cases: &[Case] = &[
        ("src", 1, &["a source and a mount point", "usage: mount.fuse.fusewire SRC MNT", "try: "]),
        ("src mnt -o", 1, &["-o needs a value", "try: "]),
        ("src mnt -N 1", 1, &["not supported", "try: "]),
        ("src mnt -x", 1, &["-x is not known", "try: "]),
        ("src mnt -o ro,bogus", 1, &["-o bogus", "not known", "try: "]),
        ("src mnt -o cache=x", 1, &["cache=x", "none, auto, coherent, always", "try: "]),
        ("src loop -o ro", 32, &["cannot mount on loop", "namei -l"]),
        ("LONG mnt -o ro", 32, &["name too long", "try: ", "a shorter path"]),
        ("missing mnt -o ro", 32, &["missing", "try: mkdir -p missing"]),
        ("src file -o ro", 32, &["file", "try: an existing directory"]),
    ];
    assert_each(&sandbox, || program(&helper), cases);
}

#[test]
fn the_bench_refuses_with_a_remedy() {
    let Some(sandbox) = furnished() else { return };
    let bench = command::binary().with_file_name("fusewire-bench");
    skip_unless!(bench.is_file(), "fusewire-bench is not built");
    let cases: &[Case] = &[
        ("nosuch", 2, &["nosuch", "--help"]),
        ("run", 2, &["<PRESET>", "--help"]),
        ("run nosuch", 1, &["there is no preset nosuch; there are ", "--workloads"]),
        ("compare missing missing", 1, &["cannot read missing", "try: write a path that exists"]),
        ("compare file file", 1, &["file is no result", "run --json FILE"]),
        ("report loop", 1, &["cannot read loop", "try: ", "namei -l"]),
        ("report LONG", 1, &["cannot read xxx", "try: ", "a shorter path"]),
    ];
    assert_each(&sandbox, || program(&bench), cases);
}

#[test]
fn malformed_policies() {
    let Some(sandbox) = furnished() else { return };
    let rule = |line: &str| format!("[[rule]]\npath = \"/a\"\neffect = \"deny\"\n{line}\n");
    for (text, parts) in [
        ("defaul = \"deny\"\n".to_owned(), &["policy:1:1", "defaul", "try: "][..]),
        ("default = \"no\"\n".to_owned(), &["policy:1:", "`no` is no effect", "try: \"allow\" or \"deny\""]),
        ("[[rule]\n".to_owned(), &["policy:1:", "try: what docs/policy.md describes"]),
        ("[[rule]]\npath = \"/a\"\n".to_owned(), &["policy:1:", "effect", "try: "]),
        (rule("uid = -1"), &["policy:4:", "-1 is no id", "try: "]),
        (rule("uid = []"), &["policy:4:", "about nobody", "try: "]),
        (rule("op = \"fly\""), &["policy:4:", "fly", "try: "]),
        (rule("").replace("/a", "a"), &["policy:2:", "does not begin with /", "try: \"/a\""]),
        (rule("").replace("/a", "/{who}"), &["policy:2:", "there is no table", "try: [tables.who]"]),
    ] {
        let file = sandbox.dir().join("policy");
        std::fs::write(&file, &text).unwrap();
        for how in [&["mount"][..], &["mount", "--dry-run"], &["mount", "--daemon"]] {
            let line = fusewire().args(how).args(["--policy", "policy", "src", "mnt"]);
            assert_says(&line.dir(sandbox.dir()).limit(30).run(), 1, parts);
        }
    }
    let cases: &[Case] = &[
        ("mount --policy missing src mnt", 1, &["missing", "cannot be read", "try: "]),
        ("mount --policy src src mnt", 1, &["src", "Is a directory", "try: "]),
        ("mount --policy loop src mnt", 1, &["loop", "symbolic links", "try: "]),
    ];
    assert_each(&sandbox, fusewire, cases);
}

/// Binds something over a path, in this namespace.
struct Over(PathBuf);

fn bind(what: &Path, over: &Path) -> Over {
    rustix::mount::mount_bind(what, over).unwrap_or_else(|error| panic!("{}: {error}", over.display()));
    Over(over.to_owned())
}

impl Drop for Over {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).expect("it is there");
    }
}

/// `fusewire mount src mnt` by root, and by an ordinary user on a directory of their own.
fn mounts_of_both(sandbox: &Sandbox) -> [Program; 2] {
    let copy = readable_copy(sandbox, &command::binary());
    let own = sandbox.dir().join("own");
    if !own.exists() {
        sandbox.make_dir("own");
        program("chown").arg("daemon").arg(&own).ok();
    }
    let source = sandbox.dir().join("src");
    let line = |program: Program, point: &Path| program.args([Path::new("mount"), &source, point]).limit(30);
    [line(fusewire(), &sandbox.dir().join("mnt")), line(as_user("daemon", copy), &own)]
}

#[test]
fn what_is_not_the_device() {
    need!("mount", "setpriv", "fusermount3", "mknod");
    let Some(sandbox) = furnished() else { return };
    let device = Path::new("/dev/fuse");
    let remedy = "mknod -m 666 /dev/fuse c 10 229";
    for (what, kind) in
        [("/dev/null".into(), "another device"), (sandbox.dir().join("file"), "a regular file")]
    {
        let _over = bind(&what, device);
        for mount in mounts_of_both(&sandbox) {
            assert_says(&mount.run(), 1, &["/dev/fuse", kind, remedy]);
        }
        let dry = fusewire().args(["mount", "--dry-run", "src", "mnt"]).dir(sandbox.dir()).run();
        assert_says(&dry, 1, &["/dev/fuse", kind, remedy]);
        let probed = fusewire().arg("probe").ok();
        assert!(probed.contains(kind) && probed.contains(remedy), "{probed}");
    }
    let closed = sandbox.dir().join("closed");
    program("mknod").args(["-m", "600"]).arg(&closed).args(["c", "10", "229"]).ok();
    {
        let _over = bind(&closed, device);
        let [_, user] = mounts_of_both(&sandbox);
        assert_says(&user.run(), 1, &["/dev/fuse", "Permission denied", "chmod 0666 /dev/fuse"]);
    }
    // One without it; what runs programs needs another one.
    let devices = sandbox.tmpfs("devices", "mode=755");
    program("mknod").args(["-m", "666"]).arg(devices.join("null")).args(["c", "1", "3"]).ok();
    let _over = bind(&devices, Path::new("/dev"));
    for mount in mounts_of_both(&sandbox) {
        assert_says(&mount.run(), 1, &["modprobe fuse", "--device /dev/fuse"]);
    }
}

#[test]
fn what_an_ordinary_user_may_not() {
    need!("mount", "setpriv", "fusermount3");
    let Some(sandbox) = furnished() else { return };
    open_dev_fuse(&sandbox);
    let copy = readable_copy(&sandbox, &command::binary());
    let user = || as_user("daemon", &copy);
    for name in ["own", "secret", "sticky", "sticky/others"] {
        sandbox.make_dir(name);
    }
    program("chown").arg("daemon").arg(sandbox.dir().join("own")).ok();
    sandbox::chmod(&sandbox.dir().join("secret"), 0o700);
    sandbox::chmod(&sandbox.dir().join("sticky"), 0o1777);
    let cases: &[Case] = &[
        ("mount src mnt", 1, &["mnt", "no write access", "choose one of your own"]),
        ("mount src sticky", 1, &["sticky", "not owned by user", "choose a directory of your own"]),
        ("mount src secret/x", 1, &["cannot mount on secret/x", "do it as root"]),
        ("mount secret own", 1, &["secret", "Permission denied", "try: as root"]),
        ("mount --file-handles always src own", 1, &["no file handles", "--file-handles at auto", "try: "]),
        ("install-helper --dir secret", 1, &["secret", "Permission denied", "try: the same as root"]),
        ("probe secret", 1, &["cannot probe secret", "try: the same as root"]),
        ("trace", 1, &["cannot watch requests", "try: "]),
    ];
    assert_each(&sandbox, user, cases);
    {
        let conf = sandbox.dir().join("fuse.conf");
        std::fs::write(&conf, "").unwrap();
        let _over = bind(&conf, Path::new("/etc/fuse.conf"));
        let cases: &[Case] = &[(
            "mount --allow-other src own",
            1,
            &["own", "write a line user_allow_other into /etc/fuse.conf"],
        )];
        assert_each(&sandbox, user, cases);
    }
    let fusermount = skip::find_program("fusermount3").unwrap().canonicalize().unwrap();
    let _over = bind(Path::new("/dev/null"), &fusermount);
    let cases: &[Case] =
        &[("mount src own", 1, &["own", "fusermount3 is not installed", "apt install fuse3"])];
    assert_each(&sandbox, user, cases);
}

#[test]
fn a_mount_that_may_not_be_unmounted_or_asked() {
    need!("mount", "setpriv", "fusermount3");
    let Some(sandbox) = furnished() else { return };
    let copy = readable_copy(&sandbox, &command::binary());
    let user = || as_user("nobody", &copy).limit(30);
    let mount = mount::passthrough(&sandbox).start();
    let path = mount.path();
    let said = path.to_string_lossy();
    let done = user().arg("unmount").arg(path).run();
    assert_says(&done, 1, &["cannot unmount", &said, "the user who mounted it, or root"]);
    let done = user().args(["unmount", "--abort"]).arg(path).run();
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.stderr.contains("root"), "{done}");
    let done = user().arg("stats").arg(path).run();
    assert_says(&done, 1, &["may not ask", &said, "try: the same as root"]);
    let held = std::fs::File::create(mount.join("held")).unwrap();
    let done = fusewire().arg("unmount").arg(path).run();
    assert_says(&done, 1, &["cannot unmount", &said, "in use by", "try: fusewire unmount --lazy"]);
    drop(held);
    let done = fusewire().arg("unmount").arg(mount.join("held")).run();
    assert_says(&done, 1, &["nothing is mounted there", &format!("one of the FUSE mounts: {said}")]);
    {
        // Nobody finds the socket.
        sandbox::mount("tmpfs", "none", Path::new("/run/fusewire"), "mode=700");
        let place = Path::new("/run/fusewire");
        let _over = Over(place.into());
        let done = fusewire().arg("stats").arg(path).run();
        assert_says(&done, 1, &["offers no statistics", &said, "try: to mount it again"]);
        let other = mount::mem(&sandbox).name("other").option("subtype=other").start();
        let socket = || Some(std::fs::read_dir(place).ok()?.next()?.ok()?.path());
        std::fs::remove_file(wait::until(SOON, socket).expect("it listens")).unwrap();
        let done = fusewire().arg("stats").arg(other.path()).run();
        assert_says(&done, 1, &["another program than fusewire", "fuse.other", "try: fusewire top"]);
        other.stop();
    }
    mount.stop();
}

/// The server lets go of its caller's streams although it can open nothing: whoever reads them would wait for it for ever.
#[test]
fn streams_of_the_caller_are_let_go_where_no_descriptor_is_left() {
    let Some(sandbox) = furnished() else { return };
    let line = r#"(ulimit -n "$1"; exec "$2" mount --daemon src mnt) 2>&1 | cat"#;
    let mut mounted = 0;
    for limit in 14..=30 {
        let limit = limit.to_string();
        let words = [Path::new(&limit), &command::binary()];
        // It would still run after the limit.
        let said = shell(line, &words).dir(sandbox.dir()).limit(20).ok();
        if said.is_empty() {
            mounted += 1;
            fusewire().args(["unmount", "mnt"]).dir(sandbox.dir()).limit(20).ok();
        } else {
            assert!(said.contains("LimitNOFILE="), "{limit}: {said}");
        }
        assert!(mountinfo::at(&sandbox.dir().join("mnt")).is_none(), "{limit}: left mounted");
        wait::assert_within(SOON, "the server has ended", || sandbox.processes().is_empty());
    }
    assert!(mounted > 0, "nothing was mounted");
}

#[test]
fn standard_output_that_is_full_or_closed() {
    skip_unless!(command::other_server().is_none(), "the stand-in server prints something else");
    for words in ["vhost --print-capabilities", "completions bash", "probe --json"] {
        let line = format!(r#""$1" {words} >/dev/full || test $? = 1"#);
        let done = shell(&line, &[&command::binary()]).run();
        assert_says(&done, 0, &["cannot write to standard output", "try: "]);
        let line = format!(r#"{{ sleep 0.2; "$1" {words} || echo "code $?" >&2; }} | true"#);
        let done = shell(&line, &[&command::binary()]).run();
        assert_eq!((done.code(), done.stderr.as_str()), (Some(0), ""), "{words}: {done}");
    }
}
