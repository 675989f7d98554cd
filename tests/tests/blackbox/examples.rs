//! The examples of the crate `fusewire`, as their users run them.

use fusewire_tests::command;
use fusewire_tests::mountinfo;
use fusewire_tests::program::{Running, program, shell};
use fusewire_tests::sandbox;
use fusewire_tests::skip_unless;
use fusewire_tests::wait::{self, SOON};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where cargo has put it: `<target>/<profile>/examples`. It is built with all tests, and not with these alone.
fn built(name: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().expect("path of the test");
    let path = exe.parent()?.parent()?.join("examples").join(name);
    path.is_file().then_some(path)
}

/// Runs an example on a mount point, has it used, and ends it by Ctrl-C.
fn example(name: &str, work: impl Fn(&Path)) {
    let Some(sandbox) = sandbox::enter() else { return };
    skip_unless!(command::other_server().is_none(), "the stand-in server is no example");
    skip_unless!(built(name).is_some(), "not built: cargo build --examples -p fusewire");
    let point = sandbox.make_dir("mnt");
    let mut running: Running = program(built(name).expect("just seen")).arg(&point).start();
    wait::assert_within(SOON, "mounted", || mountinfo::at(&point).is_some());
    work(&point);
    running.signal(Signal::INT);
    assert!(running.end_within(SOON).is_some(), "{name} goes on after Ctrl-C");
    wait::assert_within(SOON, "the mount is gone", || mountinfo::at(&point).is_none());
}

#[test]
fn hello_says_hello() {
    example("hello", |dir| {
        assert_eq!(
            shell(r#"cd "$1"; ls; cat hello; ! cat other 2>&-"#, &[dir]).ok(),
            "hello\nHello, world!\n"
        );
    });
}

#[test]
fn null_takes_everything_and_gives_zeros() {
    example("null", |dir| {
        let line = r#"cd "$1"; ls; head -c 3000000 /dev/urandom > null; echo x >> null; head -c 5000 null | tr -d '\0' | wc -c"#;
        assert_eq!(shell(line, &[dir]).ok(), "null\n0\n");
        assert_eq!(dir.join("null").metadata().unwrap().len(), 1 << 40);
    });
}

#[test]
fn memory_keeps_what_is_written() {
    example("memory", |dir| {
        let line = r#"cd "$1"; echo one > a; echo two >> a; cp a b; : > b; chmod 640 b; ls; cat a; stat -c %s-%a b
            exec 3< a; rm a; cat <&3; ls; for i in $(seq 500); do echo $i > f$i; done; ls | wc -l; cat f500
            ! truncate -s 2G f1 2>&-; rm f*; ls"#;
        assert_eq!(shell(line, &[dir]).ok(), "a\nb\none\ntwo\n0-640\none\ntwo\nb\n501\n500\nb\n");
    });
}

#[test]
fn what_arrives_asynchronously_arrives_side_by_side() {
    example("async_tokio", |dir| {
        let start = Instant::now();
        let line = r#"cd "$1"; for n in $(seq 0 9); do cat $n & done; wait"#;
        let texts = shell(line, &[dir]).ok();
        assert_eq!(texts.lines().count(), 10, "{texts}");
        // Half a second each: five, one after the other.
        assert!(start.elapsed().as_secs_f32() < 4.5, "one after the other: {:?}", start.elapsed());
    });
}
