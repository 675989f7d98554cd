//! Directory trees to work on: one with everything a filesystem can hold, one with many files.

use crate::program::{program, shell};
use std::path::Path;

/// Fills `dir` with every kind of object: odd names, all types, hard links, holes, permission bits, owners, times, user and
/// trusted attributes, ACLs. The same tree each time, except for inode numbers and change times.
pub fn everything(dir: &Path) {
    let line = r#"
        cd "$1"
        umask 022
        mkdir -p deep/er/and/deeper empty 'with blank' many
        printf 'hello\n' > plain
        head -c 300000 /dev/zero | tr '\0' 'x' > large
        printf '\001\002\377' > bytes
        : > empty-file
        printf 'odd' > "$(printf 'new\nline')"
        printf 'odd' > 'ünïcode-名前'
        printf 'odd' > "$(printf 'not-utf8-\377')"
        printf 'odd' > "$(printf 'n%.0s' $(seq 255))"
        printf 'deep' > deep/er/and/deeper/file
        ln plain hardlink
        ln plain deep/hardlink
        ln -s plain symlink
        ln -s does/not/exist dangling
        ln -s "$(printf 'd/%.0s' $(seq 500))end" long-symlink
        mkfifo fifo
        mknod char c 1 3
        mknod block b 7 99
        truncate -s 1G sparse
        printf 'middle' | dd of=sparse bs=1 seek=500000000 conv=notrunc status=none
        printf 'x' > mode-suid; chmod 4755 mode-suid
        printf 'x' > mode-none; chmod 000 mode-none
        mkdir sticky sgid
        chmod 1777 sticky
        chmod 2775 sgid
        printf 'x' > owned; chown 12345:23456 owned
        chown -h 11:22 symlink
        for i in $(seq 300); do printf "$i" > "many/file-$i"; done
        touch -d '1999-12-31T23:59:59.123456789' plain
        touch -d '2033-01-01T00:00:00.000000001' deep/er
        touch -h -d '2001-01-01T00:00:00.5' dangling
    "#;
    shell(line, &[dir]).ok();
    if crate::skip::find_program("setfattr").is_some() {
        let line = r#"cd "$1"; setfattr -n user.note -v 'a value' large; setfattr -n trusted.note -v 1 deep"#;
        shell(line, &[dir]).ok();
    }
    if crate::skip::find_program("setfacl").is_some() {
        let line = r#"cd "$1"; setfacl -m u:7:rw,g:8:r bytes; setfacl -d -m u:9:rwx deep"#;
        shell(line, &[dir]).ok();
    }
}

/// Makes `directories` times `files` small files, each with its own name in it.
pub fn many(dir: &Path, directories: usize, files: usize) {
    for outer in 0..directories {
        let sub = dir.join(format!("d{outer}"));
        std::fs::create_dir(&sub).expect("mkdir");
        for inner in 0..files {
            std::fs::write(sub.join(format!("f{inner}")), format!("needle d{outer}/f{inner}\n"))
                .expect("write");
        }
    }
}

/// What `rsync` finds different between two trees: contents, types, owners, modes, times, links, ACLs, attributes.
/// Empty when they are the same.
#[track_caller]
pub fn difference(a: &Path, b: &Path) -> String {
    let with_slash = |path: &Path| format!("{}/", path.display());
    program("rsync")
        .args(["-aHAXn", "--delete", "--checksum", "--itemize-changes", "--omit-dir-times"])
        .args([with_slash(a), with_slash(b)])
        .limit(120)
        .ok()
}
