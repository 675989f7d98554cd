use std::fs;
use std::path::Path;

use super::*;
use crate::tree::{Tree, data_file, ping_file, work_dir};
use crate::workload::{Extent, LIST_FILES, META_FILES, Request, Transfer};

fn workload(op: Op, ops: u64) -> Workload {
    Workload {
        name: "x".into(),
        about: String::new(),
        threads: vec![2],
        ops,
        passes: 1,
        busy_others: false,
        sampled: false,
        counted: false,
        warm: false,
        op,
    }
}

fn pass<'a>(root: &'a Path, workload: &'a Workload) -> Pass<'a> {
    Pass {
        workload,
        threads: 2,
        ops: workload.ops,
        root,
        src: root,
        sources: root,
        pipe: None,
        guest: None,
        number: 1,
        seed: 1,
        pin: Pin::Each,
        start_cost: Duration::ZERO,
    }
}

/// A directory with what the workload needs.
fn tree(workload: &Workload) -> (tempfile::TempDir, Tree) {
    let place = tempfile::tempdir().unwrap();
    let tree = Tree::at(place.path());
    tree.require(workload, 2).unwrap();
    (place, tree)
}

fn run_once(pass: &Pass<'_>) -> Result<Cost> {
    run(pass, &AtomicBool::new(false))
}

fn prepare_once(pass: &Pass<'_>) -> Result<()> {
    prepare(pass, &AtomicBool::new(false))
}

#[test]
fn names_are_made_and_removed() {
    let create = workload(Op::Create { size: 10 }, 21);
    let (_place, tree) = tree(&create);
    let root = tree.path();
    let create = pass(root, &create);
    let cost = run_once(&create).unwrap();
    assert_eq!((cost.ops, cost.latency.len(), cost.bytes), (21, 21, 210));
    assert!(cost.cpu > Duration::ZERO && cost.wall > Duration::ZERO);
    assert_eq!(fs::read_dir(work_dir(root, 0)).unwrap().count(), 10);
    assert!(run_once(&create).is_err(), "the same names again must not pass");
    let empty = workload(Op::Create { size: 0 }, 21);
    assert!(clean_up(&pass(root, &empty)).is_err(), "a file of another length must be noticed");
    fs::remove_dir_all(root.join("work")).unwrap();
    tree.require(create.workload, 2).unwrap();
    run_once(&create).unwrap();
    clean_up(&create).unwrap();
    assert!(clean_up(&create).is_err(), "files that are not there must be noticed");

    let unlink = workload(Op::Unlink, 21);
    let unlink = pass(root, &unlink);
    assert!(run_once(&unlink).is_err(), "there is nothing to remove yet");
    prepare_once(&unlink).unwrap();
    assert!(clean_up(&unlink).is_err(), "files that are left must be noticed");
    assert_eq!(run_once(&unlink).unwrap().ops, 21);
    clean_up(&unlink).unwrap();
}

#[test]
fn small_files_are_read_lengthened_and_renamed() {
    for op in [Op::ReadFile { size: 5000 }, Op::Append { size: 300 }, Op::Rename] {
        let workload = workload(op, 9);
        let (_place, tree) = tree(&workload);
        let pass = pass(tree.path(), &workload);
        assert!(run_once(&pass).is_err(), "{:?}: there is no file yet", workload.op);
        prepare_once(&pass).unwrap();
        if !matches!(workload.op, Op::ReadFile { .. }) {
            assert!(clean_up(&pass).is_err(), "{:?}: nothing was done, which must be noticed", workload.op);
            fs::remove_dir_all(tree.path().join("work")).unwrap();
            tree.require(&workload, 2).unwrap();
            prepare_once(&pass).unwrap();
        }
        assert_eq!(run_once(&pass).unwrap().ops, 9);
        clean_up(&pass).unwrap();
        assert_eq!(fs::read_dir(work_dir(tree.path(), 0)).unwrap().count(), 0);
    }
}

#[test]
fn a_short_small_file_is_an_error() {
    let read = workload(Op::ReadFile { size: 100 }, 4);
    let (_place, tree) = tree(&read);
    prepare_once(&pass(tree.path(), &read)).unwrap();
    let longer = workload(Op::ReadFile { size: 101 }, 4);
    let error = format!("{:#}", run_once(&pass(tree.path(), &longer)).unwrap_err());
    assert!(error.contains("100 of 101"), "{error}");
}

#[test]
fn a_short_file_and_a_short_directory_are_errors() {
    let transfer = Transfer { block: 4096, write: false, direct: false, random: true };
    let read = workload(Op::Data { transfer, files: Extent::Each(1 << 20) }, 64);
    let (_place, data) = tree(&read);
    assert_eq!(run_once(&pass(data.path(), &read)).unwrap().bytes, 64 << 12);
    for thread in 0..2 {
        fs::write(data_file(data.path(), thread), [1; 8192]).unwrap();
    }
    let error = run_once(&pass(data.path(), &read)).unwrap_err();
    assert!(error.to_string().contains("gave 0 of 4096"), "{error}");

    for op in [Op::List, Op::LsL] {
        let ops = if op == Op::List { 2 } else { 2 * LIST_FILES };
        let list = workload(op, ops);
        let (_place, tree) = tree(&list);
        let pass = pass(tree.path(), &list);
        assert_eq!(run_once(&pass).unwrap().ops, ops);
        let one = fs::read_dir(tree.path().join("list/d0001")).unwrap().next().unwrap().unwrap();
        fs::remove_file(one.path()).unwrap();
        assert!(run_once(&pass).is_err(), "{:?}", list.op);
    }
}

#[test]
fn round_trips_are_counted() {
    let place = tempfile::tempdir().unwrap();
    fs::write(ping_file(place.path()), vec![1; 8192]).unwrap();
    let block = 4096;
    for (request, bytes) in
        [(Request::Getattr, 0), (Request::Read { block }, 50 << 12), (Request::Write { block }, 50 << 12)]
    {
        let ping = workload(Op::Ping(request), 50);
        match run_once(&pass(place.path(), &ping)) {
            Ok(cost) => assert_eq!((cost.ops, cost.bytes), (50, bytes)),
            // A lower filesystem without O_DIRECT is no fault of the bench.
            Err(error) => assert!(format!("{error:#}").contains("O_DIRECT"), "{error:#}"),
        }
    }
}

#[test]
fn all_clients_can_be_kept_on_one_cpu() {
    let stat = workload(Op::Stat, 10);
    let (_place, tree) = tree(&stat);
    let cpu = *allowed_cpus().last().unwrap();
    let one = Pass { pin: Pin::One(cpu), ..pass(tree.path(), &stat) };
    assert_eq!(run_once(&one).unwrap().ops, 10);
    let none = Pass { pin: Pin::One(99_999), ..one };
    let error = run_once(&none).unwrap_err().to_string();
    assert!(error.contains("99999") && error.contains("allowed are"), "{error}");
}

#[test]
fn one_name_is_looked_at_in_the_directory_that_has_it() {
    // The second thread begins in the middle of the first directory and ends in the second.
    let stat = workload(Op::StatAt, META_FILES + 500);
    let (_place, tree) = tree(&stat);
    let stat = pass(tree.path(), &stat);
    assert_eq!(run_once(&stat).unwrap().ops, META_FILES + 500);
    fs::remove_file(crate::tree::meta_file(tree.path(), META_FILES + 499)).unwrap();
    let error = format!("{:#}", run_once(&stat).unwrap_err());
    assert!(error.contains("stat of \"f000499\" failed"), "{error}");
}

#[test]
fn a_set_stop_flag_ends_the_pass() {
    let stat = workload(Op::Stat, 10);
    let (_place, tree) = tree(&stat);
    let pass = pass(tree.path(), &stat);
    assert_eq!(run_once(&pass).unwrap().ops, 10);
    let error = run(&pass, &AtomicBool::new(true)).unwrap_err();
    assert!(error.to_string().contains("interrupted"));
}

#[test]
fn buffer_is_aligned() {
    let mut buffer = AlignedBuffer::new(4096);
    assert_eq!(buffer.bytes().as_ptr() as usize % AlignedBuffer::ALIGNMENT, 0);
    assert_eq!(buffer.bytes().len(), 4096);
}
