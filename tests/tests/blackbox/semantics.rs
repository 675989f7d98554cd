//! `docs/semantics.md` says what these tests show, in the same words.

use std::path::Path;

#[test]
fn every_paragraph_of_the_semantics_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository");
    let page = std::fs::read_to_string(root.join("docs/semantics.md")).expect("docs/semantics.md");
    let tests: String = std::fs::read_dir(root.join("tests/tests/blackbox"))
        .expect("the black-box tests")
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .collect();
    let promises: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(promises.len() > 20, "the headings have another form now");
    for promise in promises {
        let test = format!("#[test]\nfn {}()", promise.replace(' ', "_"));
        assert!(tests.contains(&test), "«{promise}» in docs/semantics.md has no test of that name");
    }
}
