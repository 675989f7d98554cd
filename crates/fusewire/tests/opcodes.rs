//! `docs/opcodes.md` says what the operations table says. With `UPDATE=1` in the environment it is rewritten.

use fusewire::proto::operations::{OPERATIONS, markdown};
use std::{fs, path::Path};

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/opcodes.md");
    let page = markdown();
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differ = written.lines().zip(page.lines()).find(|(written, page)| written != page);
    assert!(
        written == page,
        "docs/opcodes.md is out of date (first difference: {differ:?}); run UPDATE=1 cargo test -p fusewire --test opcodes"
    );
}

#[test]
fn the_page_has_a_row_for_each_operation() {
    let page = markdown();
    for row in &OPERATIONS {
        let begins = format!("| {} | {} |", row.opcode.name(), row.opcode as u32);
        assert_eq!(page.matches(&begins).count(), 1, "{begins}");
    }
    let columns: Vec<_> =
        page.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
    assert!(columns.len() == OPERATIONS.len() + 2 && columns.iter().all(|&n| n == 8), "{columns:?}");
}
