//! Whether this kernel answers in a server's place. Many do not take such programs; they say why.

use fusewire_bpf::guard::Answers;
use fusewire_bpf::{Guard, Scope};

#[test]
fn the_kernel_takes_the_guard_or_says_why_not() {
    for scope in [Scope::All, Scope::Absent] {
        match Guard::start(scope) {
            // It has tried itself on a file.
            Ok(guard) => assert_eq!(guard.answers(), Answers::default()),
            Err(refused) if std::env::var_os("FUSEWIRE_TEST_NEEDS_GUARD").is_some() => {
                panic!("{scope:?}: {refused}")
            }
            Err(refused) => eprintln!("skipped: {refused}; try: {}", refused.remedy()),
        }
    }
    // What was attached is gone: an ordinary file is opened as ever.
    std::fs::read("/proc/self/status").unwrap();
}
