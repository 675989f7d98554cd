//! Compares sizes, offsets and constants with the C compiler's view of `linux/fuse.h`.
//!
//! Looks at the header named by the environment variable `FUSE_HEADER`, or else at the installed one, with
//! the compiler `CC` or `cc`. Everything that the header declares must be described by this crate and agree
//! with it. What this crate has and the header has not is reported if the header is of an older protocol, and
//! is an error if it is not.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fusewire_abi as abi;

#[path = "header/c_header.rs"]
mod c_header;
#[path = "header/constants.rs"]
mod constants;

use c_header::{CHeader, CStruct, Measured};

const INSTALLED: &str = "/usr/include/linux/fuse.h";
const INSTALLED_VIRTIO: &str = "/usr/include/linux/virtio_fs.h";

/// Members of C unions that this crate reaches by methods: structure, member, offset, size.
const UNION_MEMBERS: &[(&str, &str, usize, usize)] =
    &[("fuse_uring_cmd_req", "ent_zero_copy_buf_index", 24, 2)];

/// Macros of the header that are not numbers of the protocol.
const NOT_PROTOCOL: &[&str] = &[
    // Depends on PAGE_SIZE, which user space has not; `removemapping_max_entry` is tested elsewhere.
    "FUSE_REMOVEMAPPING_MAX_ENTRY",
    // One more than the last notification that the header knows.
    "FUSE_NOTIFY_CODE_MAX",
    "FUSE_KERNEL_MINOR_VERSION",
];

/// What came out of a comparison.
#[derive(Debug, Default)]
struct Findings {
    /// Minor version of the header.
    minor: u32,
    errors: Vec<String>,
    /// Described by this crate, absent from an older header.
    skipped: Vec<String>,
    /// Declared by a newer header, unknown to this crate.
    newer: Vec<String>,
    compared: usize,
}

/// Writes past the capturing of the test harness, so that a skipped check does not look like a passed one.
fn announce(line: &str) {
    writeln!(io::stderr(), "{line}").expect("standard error is writable");
}

/// The header to compare with, or the reason why there is none. A header that was asked for must exist.
fn header_path() -> Result<PathBuf, String> {
    if let Some(asked) = env::var_os("FUSE_HEADER") {
        let path = PathBuf::from(asked);
        assert!(path.is_file(), "FUSE_HEADER={} is not a file", path.display());
        return Ok(path);
    }
    if Path::new(INSTALLED).is_file() {
        return Ok(PathBuf::from(INSTALLED));
    }
    Err(format!("{INSTALLED} is not there (install the kernel headers, or set FUSE_HEADER)"))
}

#[test]
fn structures_and_constants_agree_with_the_header() {
    let path = match header_path().and_then(|path| c_header::compiler().map(|_| path)) {
        Ok(path) => path,
        Err(reason) => return announce(&format!("SKIPPED layout check: {reason}")),
    };
    let text = fs::read_to_string(&path).expect("the header is readable");
    let findings = check(&text);
    announce(&format!(
        "{}: protocol 7.{}, {} structures and constants compared",
        path.display(),
        findings.minor,
        findings.compared
    ));
    if !findings.skipped.is_empty() {
        announce(&format!("not in this older header, so not compared: {}", findings.skipped.join(" ")));
    }
    if !findings.newer.is_empty() {
        announce(&format!("in this newer header, unknown to this crate: {}", findings.newer.join(" ")));
    }
    assert!(findings.errors.is_empty(), "{}", findings.errors.join("\n"));
    // A parser that finds nothing would agree with everything.
    assert!(findings.compared > 200, "only {} things found in {}", findings.compared, path.display());
}

#[test]
fn virtio_config_agrees_with_the_header() {
    if let Err(reason) = c_header::compiler() {
        return announce(&format!("SKIPPED virtio layout check: {reason}"));
    }
    let Ok(text) = fs::read_to_string(INSTALLED_VIRTIO) else {
        return announce(&format!("SKIPPED virtio layout check: {INSTALLED_VIRTIO} is not there"));
    };
    let header = CHeader::parse(&text);
    let measured = c_header::measure(&text, &header, &["VIRTIO_FS_SHMCAP_ID_CACHE"]);
    assert_eq!(measured.sizes["virtio_fs_config"], abi::VIRTIO_FS_CONFIG_BASE_SIZE);
    let ours = abi::layout::all().find(|layout| layout.name == "VirtioFsConfig").expect("is described");
    for field in &header.structs["virtio_fs_config"].fields {
        let described = ours.fields.iter().find(|ours| ours.name == field.name);
        let described =
            described.unwrap_or_else(|| panic!("virtio_fs_config.{} is not described", field.name));
        let c = measured.fields[&("virtio_fs_config".to_owned(), field.name.clone())];
        assert_eq!((described.offset, described.size), c, "virtio_fs_config.{}", field.name);
    }
    assert_eq!(measured.constants["VIRTIO_FS_SHMCAP_ID_CACHE"], u64::from(abi::VIRTIO_FS_SHMCAP_ID_CACHE));
}

/// The check itself must notice what it is there for.
#[test]
fn differences_are_noticed() {
    if let Err(reason) = c_header::compiler() {
        return announce(&format!("SKIPPED check of the layout check: {reason}"));
    }
    let errors_of = |declarations: &str| {
        let text = format!("#include <stdint.h>\n#define FUSE_KERNEL_MINOR_VERSION 38\n{declarations}");
        check(&text).errors.join("\n")
    };
    assert_eq!(errors_of("struct fuse_write_out { uint32_t size; uint32_t padding; };"), "");
    for (declarations, expected) in [
        ("struct fuse_write_out { uint64_t size; uint64_t padding; };", "fuse_write_out: 16 bytes"),
        ("struct fuse_interrupt_in { uint64_t other; };", "fuse_interrupt_in.other: not described"),
        (
            "struct fuse_secctx_header { uint32_t nr_secctx; uint32_t size; };",
            "fuse_secctx_header.size: offset 4",
        ),
        (
            "struct fuse_interrupt_in { uint32_t unique; uint32_t extra; };",
            "fuse_interrupt_in.unique: offset 0 size 4",
        ),
        ("struct fuse_nobody_in { uint64_t fh; };", "fuse_nobody_in: not described"),
        ("#define FOPEN_STREAM (1 << 5)", "FOPEN_STREAM: 32"),
        ("#define FUSE_NOBODY 1", "FUSE_NOBODY: not described"),
        ("enum fuse_opcode { FUSE_LOOKUP = 2 };", "FUSE_LOOKUP: 2"),
    ] {
        let errors = errors_of(declarations);
        assert!(errors.contains(expected), "{declarations}\ngave: {errors}");
    }
}

/// A header of the present protocol may leave nothing out; an older one may, and an older one may have
/// padding where a field is now.
#[test]
fn the_age_of_the_header_counts() {
    if let Err(reason) = c_header::compiler() {
        return announce(&format!("SKIPPED check of the layout check: {reason}"));
    }
    let with_minor = |minor: u32| {
        check(&format!(
            "#include <stdint.h>\n#define FUSE_KERNEL_MINOR_VERSION {minor}\n\
             struct fuse_open_out {{ uint64_t fh; uint32_t open_flags; uint32_t padding; }};"
        ))
    };
    let old = with_minor(39);
    assert_eq!(old.errors, Vec::<String>::new());
    assert!(old.skipped.contains(&"fuse_in_header".to_owned()), "{:?}", old.skipped);
    let present = with_minor(abi::KERNEL_MINOR_VERSION);
    assert!(present.errors.iter().any(|error| error.starts_with("fuse_in_header: missing")), "{present:?}");
    assert!(present.errors.iter().any(|error| error.starts_with("fuse_open_out.backing_id")), "{present:?}");
}

fn check(text: &str) -> Findings {
    let header = CHeader::parse(text);
    let measured = c_header::measure(text, &header, NOT_PROTOCOL);
    let mut findings = Findings { minor: header.minor, ..Findings::default() };
    for (name, c) in &header.structs {
        compare_struct(name, c, &measured, &mut findings);
    }
    compare_constants(&measured, &mut findings);
    let ours = abi::layout::all()
        .filter(|layout| layout.c_name.starts_with("fuse") || layout.c_name.starts_with("cuse"));
    for layout in ours {
        if !header.structs.contains_key(layout.c_name) {
            findings.absent(layout.c_name);
        }
    }
    findings
}

impl Findings {
    /// Notes something of ours that the header has not.
    fn absent(&mut self, name: &str) {
        if self.minor < abi::KERNEL_MINOR_VERSION {
            self.skipped.push(name.to_owned());
        } else {
            self.errors.push(format!("{name}: missing from a header of protocol 7.{}", self.minor));
        }
    }

    /// Notes something of the header that we have not.
    fn unknown(&mut self, name: String) {
        if self.minor > abi::KERNEL_MINOR_VERSION {
            self.newer.push(name);
        } else {
            self.errors.push(format!("{name}: not described by this crate"));
        }
    }
}

fn compare_constants(measured: &Measured, findings: &mut Findings) {
    let ours: BTreeMap<String, u64> = constants::all();
    for (name, &value) in &measured.constants {
        match ours.get(name) {
            Some(&described) if described == value => findings.compared += 1,
            Some(described) => findings.errors.push(format!("{name}: {value} in C, {described} here")),
            None => findings.unknown(name.clone()),
        }
    }
    for name in ours.keys().filter(|name| !measured.constants.contains_key(*name)) {
        findings.absent(name);
    }
}

/// A field that carries nothing, so that a later protocol may put something in its place.
fn is_filler(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    matches!(stem, "padding" | "unused" | "spare" | "dummy" | "reserved")
}

fn compare_struct(name: &str, c: &CStruct, measured: &Measured, findings: &mut Findings) {
    let mut forms = abi::layout::all().filter(|layout| layout.c_name == name).peekable();
    if forms.peek().is_none() {
        return findings.unknown(name.to_owned());
    }
    let size = measured.sizes[name];
    let Some(ours) = forms.find(|layout| layout.size == size) else {
        return findings
            .errors
            .push(format!("{name}: {size} bytes in C, none of its forms here has that size"));
    };
    findings.compared += 1;
    for field in &c.fields {
        if field.flexible {
            continue;
        }
        let (offset, size) = measured.fields[&(name.to_owned(), field.name.clone())];
        let end = offset + size;
        if UNION_MEMBERS.contains(&(name, &field.name, offset, size)) {
            continue;
        }
        let inside =
            |filler: &&abi::layout::Field| filler.offset <= offset && end <= filler.offset + filler.size;
        let described = ours.fields.iter().find(|ours| ours.name == field.name);
        if is_filler(&field.name) {
            let starts = ours.fields.iter().any(|ours| ours.offset == offset);
            let ends = ours.fields.iter().any(|ours| ours.offset + ours.size == end);
            if !starts || !ends {
                findings
                    .errors
                    .push(format!("{name}.{}: bytes {offset}..{end} in C overlap fields here", field.name));
            }
        } else if let Some(described) = described {
            if (described.offset, described.size) != (offset, size) {
                findings.errors.push(format!(
                    "{name}.{}: offset {offset} size {size} in C, offset {} size {} here",
                    field.name, described.offset, described.size
                ));
            }
        } else if ours.fields.iter().filter(|ours| is_filler(ours.name)).any(|filler| inside(&filler)) {
            findings.unknown(format!("{name}.{}", field.name));
        } else {
            findings
                .errors
                .push(format!("{name}.{}: not described, and bytes {offset}..{end} are in use", field.name));
        }
    }
    for ours in ours.fields.iter().filter(|ours| !is_filler(ours.name)) {
        if c.fields.iter().any(|field| field.name == ours.name) {
            continue;
        }
        let was_filler = c.fields.iter().filter(|field| is_filler(&field.name)).any(|field| {
            let (offset, size) = measured.fields[&(name.to_owned(), field.name.clone())];
            offset <= ours.offset && ours.offset + ours.size <= offset + size
        });
        if was_filler {
            findings.absent(&format!("{name}.{}", ours.name));
        } else {
            findings.errors.push(format!("{name}.{}: C has something else there", ours.name));
        }
    }
}
