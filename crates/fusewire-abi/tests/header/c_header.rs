//! Reads the declarations of a C header and has the C compiler measure them.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// What a header declares.
pub struct CHeader {
    /// `FUSE_KERNEL_MINOR_VERSION`, or 0.
    pub minor: u32,
    pub structs: BTreeMap<String, CStruct>,
    /// Names of enumerators and of macros that look like numbers.
    pub constants: Vec<String>,
}

pub struct CStruct {
    /// Named members; those of anonymous unions count as the structure's own.
    pub fields: Vec<CField>,
}

pub struct CField {
    /// As in this crate: `typ` for `type`, no leading underscores.
    pub name: String,
    pub c_name: String,
    /// `name[]`: has an offset but no size.
    pub flexible: bool,
}

/// What the compiler says.
#[derive(Default)]
pub struct Measured {
    pub sizes: BTreeMap<String, usize>,
    /// Offset and size by structure and field.
    pub fields: BTreeMap<(String, String), (usize, usize)>,
    pub constants: BTreeMap<String, u64>,
}

/// The name of the C compiler, or the reason why there is none.
pub fn compiler() -> Result<String, String> {
    let name = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    match Command::new(&name).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(name),
        Ok(output) => Err(format!("`{name} --version` fails: {}", output.status)),
        Err(error) => Err(format!("no C compiler `{name}` ({error}; install one, or set CC)")),
    }
}

impl CHeader {
    pub fn parse(text: &str) -> Self {
        // Continued lines first: the rest of a macro must not be taken for a declaration.
        let code = without_comments(text).replace("\\\n", " ");
        let mut header = Self { minor: 0, structs: BTreeMap::new(), constants: Vec::new() };
        let (directives, declarations): (Vec<&str>, Vec<&str>) =
            code.lines().map(str::trim).partition(|line| line.starts_with('#'));
        for directive in directives {
            let Some(definition) = directive.strip_prefix("#define") else { continue };
            let Some((name, value)) = definition.trim().split_once([' ', '\t']) else { continue };
            if name.contains('(') {
                continue;
            }
            if name == "FUSE_KERNEL_MINOR_VERSION" {
                header.minor = value.trim().parse().expect("the minor version is a number");
            }
            header.constants.push(name.to_owned());
        }
        let declarations = declarations.join("\n");
        for (keyword, name, body) in blocks(&declarations) {
            match keyword {
                "struct" => {
                    let mut fields = Vec::new();
                    members(body, &mut fields);
                    header.structs.insert(name.to_owned(), CStruct { fields });
                }
                _ => header.constants.extend(
                    body.split(',')
                        .filter_map(|item| item.split('=').next())
                        .map(|item| item.trim().to_owned())
                        .filter(|item| !item.is_empty()),
                ),
            }
        }
        // A structure that the parser overlooks would pass for one that an older header has not.
        for line in declarations.lines() {
            if let Some(name) = line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix('{')) {
                let name = name.trim();
                assert!(name.is_empty() || header.structs.contains_key(name), "struct {name} was overlooked");
            }
        }
        header
    }
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut code = String::new();
    while let Some(start) = rest.find("/*") {
        code.push_str(&rest[..start]);
        code.push(' ');
        let end = rest[start..].find("*/").expect("every comment ends");
        rest = &rest[start + end + 2..];
    }
    code.push_str(rest);
    code
}

/// Position just behind the brace that closes the one at the start of `text`.
fn closing_brace(text: &str) -> usize {
    let mut depth = 0;
    for (position, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return position + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("a brace is not closed in {text}");
}

/// The structures and enumerations at the top level, as (keyword, tag, what is between the braces).
fn blocks(code: &str) -> Vec<(&str, &str, &str)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(open) = rest.find('{') {
        let head = rest[..open].rsplit(';').next().unwrap_or_default();
        let end = open + closing_brace(&rest[open..]);
        let mut words = head.split_whitespace();
        if let (Some(keyword @ ("struct" | "enum")), Some(tag), None) =
            (words.next(), words.next(), words.next())
        {
            found.push((keyword, tag, &rest[open + 1..end - 1]));
        }
        rest = &rest[end..];
    }
    found
}

/// Collects the members of a structure or union.
fn members(body: &str, fields: &mut Vec<CField>) {
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let semicolon = rest.find(';').unwrap_or_else(|| panic!("a member does not end: {rest}"));
        let declaration = match rest.find('{') {
            Some(open) if open < semicolon => {
                let end = open + closing_brace(&rest[open..]);
                let inner = &rest[open + 1..end - 1];
                let semicolon = end + rest[end..].find(';').expect("a nested member ends");
                let name = rest[end..semicolon].trim();
                rest = rest[semicolon + 1..].trim_start();
                if name.is_empty() {
                    members(inner, fields);
                    continue;
                }
                name
            }
            _ => {
                let declaration = rest[..semicolon].trim();
                rest = rest[semicolon + 1..].trim_start();
                declaration
            }
        };
        assert!(!declaration.contains(','), "one member per declaration is expected: {declaration}");
        let declarator = declaration.split_whitespace().next_back().expect("a member has a name");
        let c_name = declarator.split('[').next().expect("a declarator starts with a name").to_owned();
        let name =
            if c_name == "type" { "typ".to_owned() } else { c_name.trim_start_matches('_').to_owned() };
        fields.push(CField { name, c_name, flexible: declarator.ends_with("[]") });
    }
}

/// `1 << 31` is a negative `int` and must not be widened as one.
const PROGRAM_HEAD: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/ioctl.h>
#include "measured.h"
#define STRUCT(tag) printf("S " #tag " %zu\n", sizeof(struct tag));
#define FIELD(tag, ours, field) \
    printf("F " #tag " " #ours " %zu %zu\n", offsetof(struct tag, field), sizeof(((struct tag *)0)->field));
#define WIDEN(x) (sizeof(x) == 4 ? (unsigned long long)(unsigned)(x) : (unsigned long long)(x))
#define CONSTANT(name) printf("C " #name " %llu\n", WIDEN(name));
int main(void) {
"#;

/// Compiles and runs a program that prints the size of every structure, offset and size of every field, and
/// the value of every constant that `ignored` does not name and that is called like one of the protocol.
pub fn measure(text: &str, header: &CHeader, ignored: &[&str]) -> Measured {
    let prefixes = ["FUSE_", "CUSE_", "FATTR_", "FOPEN_", "VIRTIO_FS_"];
    let virtio = header.structs.contains_key("virtio_fs_config");
    let mut program = String::from(PROGRAM_HEAD);
    for (name, c) in &header.structs {
        writeln!(program, "STRUCT({name})").expect("strings grow");
        for field in c.fields.iter().filter(|field| !field.flexible) {
            let CField { name: ours, c_name, .. } = field;
            writeln!(program, "FIELD({name}, {ours}, {c_name})").expect("strings grow");
        }
    }
    for name in &header.constants {
        let wanted = prefixes.iter().any(|prefix| name.starts_with(prefix));
        if wanted && (virtio || !ignored.contains(&name.as_str())) {
            writeln!(program, "CONSTANT({name})").expect("strings grow");
        }
    }
    program.push_str("return 0; }\n");
    parse_output(&run(text, &program))
}

fn run(header: &str, program: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory for the program");
    fs::write(directory.path().join("measured.h"), header).expect("the header is written");
    fs::write(directory.path().join("measure.c"), program).expect("the program is written");
    let output = Command::new(compiler().expect("was looked for before"))
        .args(["-w", "-o", "measure", "measure.c"])
        .current_dir(directory.path())
        .output()
        .expect("the compiler runs");
    assert!(
        output.status.success(),
        "the C compiler rejects the program that measures the header:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(directory.path().join("measure")).output().expect("the program runs");
    assert!(output.status.success(), "the program that measures the header fails: {}", output.status);
    String::from_utf8(output.stdout).expect("the program prints ASCII")
}

fn parse_output(output: &str) -> Measured {
    let mut measured = Measured::default();
    let number = |word: &str| word.parse::<usize>().expect("the program prints numbers");
    for line in output.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["S", name, size] => {
                measured.sizes.insert(name.to_owned(), number(size));
            }
            ["F", name, field, offset, size] => {
                measured.fields.insert((name.to_owned(), field.to_owned()), (number(offset), number(size)));
            }
            ["C", name, value] => {
                measured
                    .constants
                    .insert(name.to_owned(), value.parse().expect("the program prints numbers"));
            }
            _ => panic!("unexpected line {line:?}"),
        }
    }
    measured
}
