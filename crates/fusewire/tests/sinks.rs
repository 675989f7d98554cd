//! Sinks and sources: full, resumed, past the end, never out of bounds.

use fusewire::{
    Attr, Entry, Errno, FileType, NodeId,
    abi::{Dirent, Direntplus},
    reply::{DirPlusSink, DirSink, Sink, Source, XattrSink},
};
use std::{
    future::Future,
    io::Write,
    pin::pin,
    task::{Context, Poll, Waker},
};
use zerocopy::FromBytes;

fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_sink_takes_as_much_as_was_asked_for() {
    let mut area = [9; 16];
    let mut sink = Sink::new(&mut area, 10);
    assert_eq!((sink.put(b"abc"), sink.put_zeros(2), sink.room()), (3, 2, 5));
    assert_eq!((sink.put(b"defghijk"), sink.put(b"x"), sink.put_zeros(1)), (5, 0, 0));
    assert_eq!((sink.len(), sink.room()), (10, 0));
    assert_eq!(&area, b"abc\0\0defgh\x09\x09\x09\x09\x09\x09");
    // More asked for than there is memory.
    assert_eq!(Sink::new(&mut area, 100).room(), 16);
}

#[test]
fn content_past_its_end_is_nothing() {
    let mut area = [0; 8];
    for (offset, expected) in [(0, &b"content"[..]), (3, b"tent"), (7, b""), (8, b""), (u64::MAX, b"")] {
        let mut sink = Sink::new(&mut area, 8);
        sink.put_from(b"content", offset);
        let len = sink.len();
        assert_eq!(&area[..len], expected, "at {offset}");
    }
}

#[test]
fn files_go_in_and_out() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let mut area = [0; 8];
    for (offset, limit, expected) in
        [(0, 8, &b"01234567"[..]), (5, 8, b"56789"), (10, 8, b""), (99, 8, b""), (2, 3, b"234")]
    {
        let mut sink = Sink::new(&mut area, limit);
        assert_eq!(at_once(sink.put_file(&file, offset)), Ok(expected.len()));
        assert_eq!(&area[..expected.len()], expected);
    }
    // An offset that no file has is an error of `pread`, as long as nothing came.
    assert_eq!(at_once(Sink::new(&mut area, 8).put_file(&file, u64::MAX)), Err(Errno::INVAL));

    let source = Source::new(b"abc");
    assert_eq!(at_once(source.to_file(&file, 8)), Ok(3));
    let mut sink = Sink::new(&mut area, 8);
    assert_eq!(at_once(sink.put_file(&file, 7)), Ok(4));
    assert_eq!(&area[..4], b"7abc");
    let read_only = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(at_once(source.to_file(&read_only, 0)), Err(Errno::BADF));
    let mut small = [0; 2];
    assert_eq!((source.copy_to(&mut small), small), (2, *b"ab"));
}

#[test]
fn what_fill_claims_is_not_believed() {
    let mut area = [0; 4];
    let mut sink = Sink::new(&mut area, 4);
    assert_eq!(sink.fill(|room| Ok(room.len() + 100)), Ok(104));
    assert_eq!((sink.len(), sink.room()), (4, 0));
    assert_eq!(sink.fill(|_| Err(Errno::IO)), Err(Errno::IO));
    assert_eq!(sink.put(b"x"), 0);
}

#[test]
fn an_attribute_counts_also_what_does_not_fit() {
    for (room, written) in
        [(0, &b""[..]), (1, b""), (4, b"ab"), (5, b"abcde"), (16, b"abcde"), (u32::MAX, b"abcde")]
    {
        let mut area = [0; 16];
        let mut sink = XattrSink::new(&mut area, room);
        sink.put(b"ab");
        sink.put(b"cde");
        assert_eq!(sink.len(), 5);
        assert_eq!(&area[..written.len()], written);
        assert!(area[written.len()..].iter().all(|byte| *byte == 0), "written past the room of {room}");
    }
}

#[test]
fn a_listing_is_padded_resumed_and_ends_before_it_overflows() {
    let names: Vec<String> = (1..40).map(|len| "x".repeat(len)).collect();
    let entries = || names.iter().map(|name| (NodeId::new(name.len() as u64), FileType::Regular, &name[..]));
    for room in [0, 24, 31, 32, 39, 64, 100, 4096] {
        let (mut cookie, mut seen) = (0, Vec::new());
        loop {
            let mut area = [0xaa; 5000];
            let mut sink = DirSink::new(&mut area, room);
            sink.put_all(cookie, entries());
            let len = sink.len();
            assert!(len <= room && len.is_multiple_of(8));
            assert!(area[len..].iter().all(|byte| *byte == 0xaa), "written past the end");
            let mut rest = &area[..len];
            while let Ok((head, after)) = Dirent::read_from_prefix(rest) {
                let namelen = head.namelen as usize;
                assert_eq!((head.ino, head.typ), (namelen as u64, 8));
                seen.push(after[..namelen].to_vec());
                let padding = (24 + namelen).next_multiple_of(8) - 24;
                assert!(after[namelen..padding].iter().all(|byte| *byte == 0));
                cookie = head.off;
                rest = &after[padding..];
            }
            if len == 0 {
                break;
            }
        }
        let fitting = names.iter().take_while(|name| (24 + name.len()).next_multiple_of(8) <= room).count();
        assert_eq!(seen.len(), fitting, "with room for {room}");
    }
}

#[test]
fn whether_an_entry_fits_is_known_before_it_is_looked_up() {
    let entry = Entry::new(NodeId::new(2), Attr::file(0));
    for room in 0..600 {
        let mut area = [0; 600];
        let mut sink = DirPlusSink::new(&mut area, room);
        let (fits, before) = (sink.fits(b"name"), sink.len());
        assert_eq!(sink.put(&entry, b"name", 1), fits, "with room for {room}");
        assert_eq!(sink.len() - before, if fits { 160 } else { 0 });
        while sink.fits(b"other") {
            assert!(sink.put_unresolved(3, None, b"other", 2));
        }
        assert!(!sink.put_unresolved(3, None, b"other", 2));
        if fits {
            let (head, _) = Direntplus::read_from_prefix(&area).unwrap();
            assert_eq!((head.entry_out.nodeid, head.dirent.ino, head.dirent.namelen), (2, 2, 4));
        }
    }
}
