//! What the kernel makes of a file's names by itself.

use fusewire::channel::layer::{Fault, Rule};
use fusewire::mount::{MountOptions, Unmount};
use fusewire::server::{Options, Server};
use fusewire_abi::Opcode;
use fusewire_fs::passthrough::{CacheProfile, Options as Lower, Passthrough};
use fusewire_tests::program::shell;
use fusewire_tests::sandbox;
use std::time::Duration;

/// The answer to the rename is late, so that the one to `stat` comes before it for certain: the kernel takes the name off a count of
/// which it is gone already. What is shown is that the kernel refuses the link, of which the server never hears; a kernel that does not
/// is welcome.
#[test]
fn a_file_that_is_looked_at_while_a_name_of_it_goes_may_be_refused_a_new_one() {
    let Some(sandbox) = sandbox::enter() else { return };
    let [source, point] = ["source", "point"].map(|name| sandbox.make_dir(name));
    let lower = Lower {
        cache: CacheProfile::Auto,
        // Else looking for the file asks for its count.
        entry_timeout: Some(Duration::from_secs(60)),
        attr_timeout: Some(Duration::ZERO),
        ..Lower::default()
    };
    let fs = Passthrough::new(&source, lower).expect("a passthrough");
    let mount = MountOptions { default_permissions: true, ..MountOptions::default() };
    let late = Rule::delay(Duration::from_millis(600)).on([Opcode::Rename, Opcode::Rename2]);
    let options = Options { mount, ..Options::default() };
    let server = Server::mount_with(fs, &point, &options, Fault::new(1, [late])).expect("a mount");
    let handle = server.handle();
    let line = r#"cd "$1"; echo a > a; ln a name; echo b > b
        mv -f b name & sleep 0.3; stat -c %h a; wait
        link a first; echo $?; stat -c %h a; link a second; echo $?; stat -c %h a"#;
    let done = shell(line, &[&point]).limit(30).run();
    let stats = handle.stats();
    let asked: u64 =
        stats.operations.iter().filter(|op| op.opcode == Opcode::Link).map(|op| op.requests).sum();
    handle.unmount(Unmount::Lazy).expect("unmounted");
    server.join().expect("served");
    let told: Vec<_> = done.stdout.split_whitespace().collect();
    match told[..] {
        // `stat` has put the count right, and the file is as it was.
        ["1", "1", "1", "0", "2"] => {
            assert_eq!(asked, 2, "the kernel refused one link by itself\n{done}");
            assert!(done.stderr.contains("No such file"), "{done}");
        }
        ["1", "0", "2", "0", "3"] => assert_eq!(asked, 3, "{done}"),
        _ => panic!("the file has other names than it was given\n{done}"),
    }
}
