//! Checks that data cannot say: loops, several threads, comparisons over thousands of names.

use crate::ops::{Trouble, wrong};
use crate::sys::DirStream;
use crate::words;
use crate::world::World;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

type Checked = Result<(), Trouble>;
type Program = fn(&mut World<'_>) -> Checked;

const PROGRAMS: &[(&str, Program)] = &[
    ("telldir-seekdir", telldir_seekdir),
    ("rewinddir-sees-new", rewinddir_sees_new),
    ("rewinddir-sees-first", rewinddir_sees_first),
    ("readdir-while-removing", readdir_while_removing),
    ("readdir-while-creating", readdir_while_creating),
    ("small-getdents", small_getdents),
    ("dirent-inodes", dirent_inodes),
    ("rename-replaces-atomically", rename_replaces_atomically),
    ("append-two-writers", append_two_writers),
    ("one-exclusive-creator", one_exclusive_creator),
    ("links-in-parallel", links_in_parallel),
    ("renames-across-directories", renames_across_directories),
    ("writers-in-own-ranges", writers_in_own_ranges),
    ("random-io-against-model", random_io_against_model),
    ("mkdir-rmdir-in-parallel", mkdir_rmdir_in_parallel),
    ("cwd-follows-rename", cwd_follows_rename),
    ("lookup-while-replaced", lookup_while_replaced),
    ("direct-block-io", direct_block_io),
    ("symlink-chain", symlink_chain),
    ("write-from-mapping", write_from_mapping),
    ("run-copied-program", run_copied_program),
    ("text-file-busy", text_file_busy),
];

pub(crate) fn find(name: &str) -> Option<Program> {
    PROGRAMS.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
}

fn fill(dir: &str, count: usize) -> Checked {
    fs::create_dir(dir)?;
    for i in 0..count {
        File::create(format!("{dir}/f{i}"))?;
    }
    Ok(())
}

fn stream(dir: &str) -> Result<DirStream, Trouble> {
    Ok(DirStream::new(crate::ops::open_dir(dir.as_bytes())?)?)
}

fn expected_names(count: usize) -> BTreeSet<Vec<u8>> {
    let own = (0..count).map(|i| format!("f{i}").into_bytes());
    own.chain([b".".to_vec(), b"..".to_vec()]).collect()
}

/// Every name in `must` exactly once; others are allowed where they match `may`.
fn once_each(seen: &[Vec<u8>], must: &BTreeSet<Vec<u8>>, may: impl Fn(&[u8]) -> bool) -> Checked {
    let mut found = BTreeSet::new();
    for name in seen {
        if !found.insert(name.clone()) {
            return wrong("every name once", format!("{} twice", words::show_bytes(name)));
        }
        if !must.contains(name) && !may(name) {
            return wrong("only names that were there", words::show_bytes(name));
        }
    }
    match must.difference(&found).next() {
        Some(lost) => {
            wrong(format!("{} names", must.len()), format!("{} is missing", words::show_bytes(lost)))
        }
        None => Ok(()),
    }
}

fn telldir_seekdir(_: &mut World<'_>) -> Checked {
    fill("d", 600)?;
    let mut dir = stream("d")?;
    let mut places = Vec::new();
    let mut names = Vec::new();
    loop {
        let place = dir.tell();
        let Some((name, ..)) = dir.read()? else { break };
        places.push(place);
        names.push(name);
    }
    once_each(&names, &expected_names(600), |_| false)?;
    for at in [names.len() - 1, 0, names.len() / 2, 7, names.len() / 3] {
        dir.seek(places[at]);
        for want in names.iter().skip(at).take(3) {
            let got = dir.read()?.map(|e| e.0);
            if got.as_ref() != Some(want) {
                let got = got.map_or("the end".to_owned(), |n| words::show_bytes(&n));
                return wrong(format!("{} after seekdir to entry {at}", words::show_bytes(want)), got);
            }
        }
    }
    Ok(())
}

fn rewinddir_sees_new(_: &mut World<'_>) -> Checked {
    fill("d", 10)?;
    let mut dir = stream("d")?;
    while dir.read()?.is_some() {}
    File::create("d/f10")?;
    fs::remove_file("d/f3")?;
    dir.rewind();
    let mut names = Vec::new();
    while let Some((name, ..)) = dir.read()? {
        names.push(name);
    }
    let mut must = expected_names(11);
    must.remove(&b"f3"[..]);
    once_each(&names, &must, |_| false)
}

/// A directory in which there was nothing but the dots.
fn rewinddir_sees_first(_: &mut World<'_>) -> Checked {
    fs::create_dir("d")?;
    let mut dir = stream("d")?;
    while dir.read()?.is_some() {}
    File::create("d/f0")?;
    dir.rewind();
    let mut names = Vec::new();
    while let Some((name, ..)) = dir.read()? {
        names.push(name);
    }
    once_each(&names, &expected_names(1), |_| false)
}

/// What `rm -r` does: names that are not removed yet must still come, once.
fn readdir_while_removing(_: &mut World<'_>) -> Checked {
    const COUNT: usize = 2000;
    fill("d", COUNT)?;
    let mut dir = stream("d")?;
    let mut seen = Vec::new();
    while let Some((name, ..)) = dir.read()? {
        if name.starts_with(b"f") {
            fs::remove_file(format!("d/{}", String::from_utf8_lossy(&name)))?;
        }
        seen.push(name);
    }
    once_each(&seen, &expected_names(COUNT), |_| false)?;
    Ok(fs::remove_dir("d")?)
}

fn readdir_while_creating(_: &mut World<'_>) -> Checked {
    const COUNT: usize = 1000;
    fill("d", COUNT)?;
    let mut dir = stream("d")?;
    let mut seen = Vec::new();
    while let Some((name, ..)) = dir.read()? {
        if seen.len() < COUNT {
            File::create(format!("d/new{}", seen.len()))?;
        }
        seen.push(name);
    }
    once_each(&seen, &expected_names(COUNT), |name| name.starts_with(b"new"))
}

/// A buffer that holds one or two entries: each call must go on where the one before ended.
fn small_getdents(_: &mut World<'_>) -> Checked {
    use std::mem::MaybeUninit;
    fill("d", 200)?;
    let fd = crate::ops::open_dir(b"d")?;
    let mut buffer = [MaybeUninit::uninit(); 64];
    let mut raw = rustix::fs::RawDir::new(&fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        names.push(entry?.file_name().to_bytes().to_vec());
    }
    once_each(&names, &expected_names(200), |_| false)
}

fn dirent_inodes(_: &mut World<'_>) -> Checked {
    fill("d", 300)?;
    for i in 0..20 {
        fs::create_dir(format!("d/sub{i}"))?;
        std::os::unix::fs::symlink("f0", format!("d/link{i}"))?;
    }
    for entry in crate::ops::entries(crate::ops::open_dir(b"d")?)? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let real = fs::symlink_metadata(format!("d/{name}"))?;
        if entry.ino != real.ino() {
            return wrong(format!("d_ino of {name} = st_ino {}", real.ino()), entry.ino.to_string());
        }
        let kind = rustix::fs::FileType::from_raw_mode(real.mode());
        if entry.kind != kind && entry.kind != rustix::fs::FileType::Unknown {
            return wrong(format!("d_type of {name}: {kind:?} (or unknown)"), format!("{:?}", entry.kind));
        }
    }
    Ok(())
}

/// Runs `turns` of `one` while `other` runs in a second thread until the first is done.
fn beside(one: impl FnOnce() -> Checked, other: impl Fn() -> Checked + Sync) -> Checked {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                other()?;
            }
            Ok(())
        });
        let first = one();
        done.store(true, Ordering::Relaxed);
        first.and(second.join().unwrap_or_else(|_| Err(Trouble::Case("a thread panicked".to_owned()))))
    })
}

/// Runs `job(0)` .. `job(n - 1)` in as many threads.
fn together(n: u32, job: impl Fn(u32) -> Checked + Sync) -> Checked {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                scope.spawn({
                    let job = &job;
                    move || job(i)
                })
            })
            .collect();
        let panicked = |_| Err(Trouble::Case("a thread panicked".to_owned()));
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(panicked))
    })
}

fn rename_replaces_atomically(_: &mut World<'_>) -> Checked {
    fs::write("name", [b'0'; 4096])?;
    let replace = || {
        for turn in 0..300u32 {
            fs::write("next", [b'0' + (turn % 10) as u8; 4096])?;
            fs::rename("next", "name")?;
        }
        Ok(())
    };
    beside(replace, || {
        let data = fs::read("name")?;
        if data.len() != 4096 || data.iter().any(|b| *b != data[0]) {
            return wrong("one whole version of the file", words::show_bytes(&data));
        }
        Ok(())
    })
}

fn append_two_writers(_: &mut World<'_>) -> Checked {
    const LINES: usize = 500;
    File::create("log")?;
    together(2, |who| {
        let mut file = OpenOptions::new().append(true).open("log")?;
        for i in 0..LINES {
            file.write_all(format!("{who}{i:07}{}\n", "x".repeat(91)).as_bytes())?;
        }
        Ok(())
    })?;
    let data = fs::read("log")?;
    if data.len() != 2 * LINES * 100 {
        return wrong(format!("{} bytes", 2 * LINES * 100), format!("{} bytes", data.len()));
    }
    let mut next = [0usize; 2];
    for line in data.chunks(100) {
        let who = usize::from(line[0] == b'1');
        if line[..8] != *format!("{who}{:07}", next[who]).as_bytes() || line[99] != b'\n' {
            return wrong(format!("line {} of writer {who}, whole", next[who]), words::show_bytes(line));
        }
        next[who] += 1;
    }
    Ok(())
}

fn one_exclusive_creator(_: &mut World<'_>) -> Checked {
    for turn in 0..100 {
        let winners = AtomicU32::new(0);
        let name = format!("f{turn}");
        together(4, |_| match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(_) => {
                winners.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        if winners.load(Ordering::Relaxed) != 1 {
            return wrong("exactly one O_EXCL creator", format!("{winners:?} of them for {name}"));
        }
    }
    Ok(())
}

fn links_in_parallel(_: &mut World<'_>) -> Checked {
    File::create("f")?;
    together(4, |who| {
        for turn in 0..100 {
            let name = format!("link{who}-{turn}");
            fs::hard_link("f", &name)?;
            if turn % 2 == 1 {
                fs::remove_file(&name)?;
            }
        }
        Ok(())
    })?;
    match fs::metadata("f")?.nlink() {
        201 => Ok(()),
        other => wrong("201 links after 400 link and 200 unlink calls", other.to_string()),
    }
}

fn renames_across_directories(_: &mut World<'_>) -> Checked {
    fs::create_dir_all("a/x")?;
    fs::create_dir_all("b/y")?;
    together(2, |who| {
        let (from, to) = if who == 0 { ("a/x", "b/x") } else { ("b/y", "a/y") };
        for _ in 0..200 {
            fs::rename(from, to)?;
            fs::rename(to, from)?;
        }
        Ok(())
    })?;
    let there = fs::metadata("a/x").is_ok() && fs::metadata("b/y").is_ok();
    if there { Ok(()) } else { wrong("a/x and b/y where they began", "one is gone") }
}

fn writers_in_own_ranges(_: &mut World<'_>) -> Checked {
    const PIECE: usize = 777;
    File::create("f")?;
    together(4, |who| {
        let file = OpenOptions::new().write(true).open("f")?;
        for turn in 0..100u64 {
            let piece: Vec<u8> = words::pattern(who as usize, PIECE).collect();
            file.write_all_at(&piece, (turn * 4 + u64::from(who)) * PIECE as u64)?;
        }
        Ok(())
    })?;
    let want: Vec<u8> = (0..400).flat_map(|i| words::pattern(i % 4, PIECE)).collect();
    let got = fs::read("f")?;
    if got == want { Ok(()) } else { wrong(words::show_bytes(&want), words::show_difference(&want, &got)) }
}

/// Reproducible numbers (xorshift64); quality does not matter here.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn random_io_against_model(_: &mut World<'_>) -> Checked {
    const LARGEST: usize = 300_000;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open("f")?;
    let mut model: Vec<u8> = Vec::new();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for turn in 0..1500 {
        let (at, len) = (numbers.below(LARGEST), 1 + numbers.below(20_000));
        match numbers.below(10) {
            0 => {
                file.set_len(at as u64)?;
                model.resize(at, 0);
            }
            1..5 => {
                let data: Vec<u8> = words::pattern(turn, len).collect();
                file.write_all_at(&data, at as u64)?;
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&data);
            }
            _ => {
                let mut data = vec![0; len];
                let got = read_up_to(&file, &mut data, at)?;
                let end = (at + len).min(model.len());
                let want = model.get(at..end).unwrap_or_default();
                if data[..got] != *want {
                    let text = words::show_difference(want, &data[..got]);
                    return wrong(format!("turn {turn}: {} bytes at {at} as written", want.len()), text);
                }
            }
        }
    }
    let got = fs::read("f")?;
    if got == model { Ok(()) } else { wrong("the file as written", words::show_difference(&model, &got)) }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: usize) -> Result<usize, Trouble> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], (at + done) as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn mkdir_rmdir_in_parallel(_: &mut World<'_>) -> Checked {
    fs::create_dir("d")?;
    together(4, |who| {
        for _ in 0..100 {
            let name = format!("d/own{who}");
            fs::create_dir(&name)?;
            File::create(format!("{name}/f"))?;
            fs::remove_file(format!("{name}/f"))?;
            fs::remove_dir(&name)?;
        }
        Ok(())
    })?;
    match (fs::read_dir("d")?.count(), fs::metadata("d")?.nlink()) {
        // Some filesystems (btrfs, for one) count no subdirectories: nlink is always 1.
        (0, 1 | 2) => Ok(()),
        (left, links) => {
            wrong("an empty directory with 2 links (or always 1)", format!("{left} entries, {links} links"))
        }
    }
}

fn cwd_follows_rename(_: &mut World<'_>) -> Checked {
    fs::create_dir_all("a/b")?;
    fs::create_dir("c")?;
    std::env::set_current_dir("a/b")?;
    fs::rename("../../a", "../../c/z")?;
    File::create("here")?;
    fs::metadata("../../../c/z/b/here")?;
    let cwd = std::env::current_dir()?;
    if cwd.ends_with("c/z/b") {
        Ok(())
    } else {
        wrong("a current directory ending in c/z/b", cwd.display().to_string())
    }
}

/// A name that is replaced all the time must never be missing, and each lookup must give one of the two files.
fn lookup_while_replaced(_: &mut World<'_>) -> Checked {
    fs::write("a", "a")?;
    fs::write("b", "bb")?;
    // A name that stays, besides the one that new names are made from. Linux's FUSE client may count one name too few of a file that is
    // looked at while one goes, and refuses new ones to a file that seems to have none: a fault of another kind than is looked for here.
    fs::hard_link("a", "a-too")?;
    fs::hard_link("b", "b-too")?;
    fs::hard_link("a", "name")?;
    let replace = || {
        for turn in 0..400 {
            fs::hard_link(if turn % 2 == 0 { "b" } else { "a" }, "next")?;
            fs::rename("next", "name")?;
        }
        Ok(())
    };
    beside(replace, || match fs::metadata("name")?.len() {
        1 | 2 => Ok(()),
        other => wrong("a file of 1 or 2 bytes", format!("{other} bytes")),
    })
}

/// How many there are, for the test that each is used.
#[cfg(test)]
pub(crate) const COUNT: usize = PROGRAMS.len();

/// Memory aligned for O_DIRECT on any device.
#[repr(C, align(4096))]
struct Block([u8; 4096]);

/// Blocks written through O_DIRECT are seen by buffered reads and mappings, and the other way round.
fn direct_block_io(world: &mut World<'_>) -> Checked {
    let (buffered, direct) = (world.fd("b")?, world.fd("d")?);
    let mut block = Box::new(Block([b'D'; 4096]));
    if rustix::io::pwrite(direct, &block.0, 4096)? != 4096 {
        return wrong("4096 bytes written with O_DIRECT", "fewer");
    }
    let mut seen = vec![0; 4096];
    rustix::io::pread(buffered, &mut seen[..], 4096)?;
    if seen != block.0 {
        return wrong("the block written with O_DIRECT", words::show_difference(&block.0, &seen));
    }
    rustix::io::pwrite(buffered, &[b'B'; 100], 4096)?;
    rustix::io::pread(direct, &mut block.0[..], 4096)?;
    if block.0[..100] != [b'B'; 100] || block.0[100] != b'D' {
        return wrong("the bytes just written through the page cache", words::show_bytes(&block.0));
    }
    let map = crate::sys::Map::new(buffered, 0, 8192, (libc::PROT_READ, libc::MAP_SHARED))?;
    let mapped = map.read(4096, 200)?;
    let file = mapped[..100] == [b'B'; 100] && mapped[100..] == [b'D'; 100];
    if file { Ok(()) } else { wrong("a mapping with the same bytes", words::show_bytes(&mapped)) }
}

fn symlink_chain(_: &mut World<'_>) -> Checked {
    fs::write("l0", "end")?;
    for i in 1..=41 {
        std::os::unix::fs::symlink(format!("l{}", i - 1), format!("l{i}"))?;
    }
    if fs::read("l40")? != b"end" {
        return wrong("the file at the end of 40 links", "another");
    }
    match fs::read("l41") {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => wrong("ELOOP after 41 links", "success"),
    }
}

/// `write` whose bytes come from a mapping: the kernel must not deadlock faulting its pages in while it holds others.
fn write_from_mapping(_: &mut World<'_>) -> Checked {
    const LEN: usize = 300_000;
    let source: Vec<u8> = words::pattern(1, LEN).collect();
    fs::write("a", &source)?;
    let file = OpenOptions::new().read(true).write(true).open("a")?;
    let map = crate::sys::Map::new(&file, 0, LEN, (libc::PROT_READ, libc::MAP_SHARED))?;
    let other = OpenOptions::new().read(true).write(true).create_new(true).open("b")?;
    let done = map.write_out(&other, (0, LEN), 0)?;
    let got = fs::read("b")?;
    if done != LEN || got != source {
        return wrong(words::show_bytes(&source), words::show_difference(&source, &got));
    }
    // Of the same file, to a place that lies in other pages.
    map.write_out(&file, (0, 5000), 200_000)?;
    let mut want = source.clone();
    want.copy_within(0..5000, 200_000);
    let got = fs::read("a")?;
    if got == want { Ok(()) } else { wrong(words::show_bytes(&want), words::show_difference(&want, &got)) }
}

fn run_copied_program(_: &mut World<'_>) -> Checked {
    use std::os::unix::fs::PermissionsExt;
    fs::copy("/bin/true", "program")?;
    fs::set_permissions("program", fs::Permissions::from_mode(0o755))?;
    for _ in 0..3 {
        let status = std::process::Command::new("./program").status()?;
        if !status.success() {
            return wrong("exit status 0", status.to_string());
        }
    }
    fs::remove_file("program")?;
    Ok(())
}

fn text_file_busy(_: &mut World<'_>) -> Checked {
    use std::os::unix::fs::PermissionsExt;
    fs::copy("/bin/true", "program")?;
    fs::set_permissions("program", fs::Permissions::from_mode(0o755))?;
    let writer = OpenOptions::new().write(true).open("program")?;
    match std::process::Command::new("./program").status() {
        Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return wrong("ETXTBSY while the file is open for writing", "it ran"),
    }
    drop(writer);
    let status = std::process::Command::new("./program").status()?;
    if status.success() { Ok(()) } else { wrong("exit status 0 once it is closed", status.to_string()) }
}
