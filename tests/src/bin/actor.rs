//! The second process of the black-box tests; see `fusewire_tests::actor`.

use fusewire_tests::actor;
use std::path::Path;
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["act"] => actor::act(),
        ["posix", dir] => actor::run_posix(Path::new(dir)),
        ["watch", dir, seconds, spared] => {
            let seconds = seconds.parse().expect("seconds");
            actor::watch(Path::new(dir), Duration::from_secs(seconds), spared.parse().expect("a process id"));
        }
        _ => panic!("act | posix DIR | watch DIR SECONDS PID, not {words:?}"),
    }
}
