//! A tree of C sources with the proportions of a kernel's: many directories, small files, headers that include headers.
//! It compiles, so that `make` can be run on it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::workload::Sources;

/// How many headers each file includes.
const INCLUDES: u32 = 12;
/// Bytes of one block of comment. A file has one to eight of them.
const COMMENT: usize = 1200;

/// Makes the tree in `root`, which must not be there.
///
/// # Errors
/// If a file cannot be made.
pub fn make(root: &Path, sources: Sources) -> io::Result<()> {
    fs::create_dir_all(root.join("include"))?;
    for header in 0..sources.headers {
        fs::write(root.join("include").join(format!("h{header}.h")), header_text(header))?;
    }
    for dir in 0..sources.dirs {
        let path = root.join(format!("d{dir}"));
        fs::create_dir(&path)?;
        for file in 0..sources.files {
            fs::write(path.join(format!("f{file}.c")), source_text(dir, file, sources))?;
        }
        fs::write(path.join("Kconfig"), format!("config D{dir}\n\tbool \"directory {dir}\"\n"))?;
    }
    fs::write(root.join("Makefile"), MAKEFILE)
}

/// `make PART='d0 d1'` builds some of the directories.
const MAKEFILE: &str = "\
PART ?= $(wildcard d*)
SOURCES := $(foreach dir,$(PART),$(wildcard $(dir)/*.c))
OBJECTS := $(SOURCES:.c=.o)
CFLAGS := -O1 -Iinclude

built-in.a: $(OBJECTS)
\trm -f $@
\tar rcs $@ $(OBJECTS)

%.o: %.c
\t$(CC) $(CFLAGS) -MMD -c -o $@ $<

-include $(OBJECTS:.o=.d)
";

fn header_text(number: u32) -> String {
    let mut text = format!("#ifndef H{number}\n#define H{number}\n");
    // Each includes the one at half its number, so that chains are as long as the logarithm.
    if number > 0 {
        let _ = writeln!(text, "#include \"h{}.h\"", number / 2);
    }
    comment(&mut text, number);
    let _ = writeln!(text, "struct s{number} {{ int a; long b[{}]; }};", number % 7 + 1);
    let _ = writeln!(
        text,
        "static inline int v{number}(const struct s{number} *s) {{ return s->a + {number}; }}"
    );
    text.push_str("#endif\n");
    text
}

fn source_text(dir: u32, file: u32, sources: Sources) -> String {
    let seed = dir * 7919 + file * 104_729;
    let included: Vec<u32> =
        (0..INCLUDES).map(|index| seed.wrapping_add(index * 31) % sources.headers).collect();
    let mut text = String::new();
    for header in &included {
        let _ = writeln!(text, "#include \"h{header}.h\"");
    }
    for block in 0..seed % 8 + 1 {
        comment(&mut text, block);
        let header = included[block as usize % included.len()];
        let _ = writeln!(
            text,
            "int d{dir}_f{file}_{block}(struct s{header} *s)\n{{\n\tint i, sum = 0;\n\tfor (i = 0; i < s->a; i++)\n\
             \t\tsum += v{header}(s) ^ i;\n\treturn sum;\n}}"
        );
    }
    text
}

fn comment(text: &mut String, number: u32) {
    text.push_str("/*\n");
    let end = text.len() + COMMENT;
    while text.len() < end {
        let _ =
            writeln!(text, " * Note {number}: what follows is as long as what a kernel says about itself.");
    }
    text.push_str(" */\n");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::program;

    #[test]
    fn the_tree_is_the_same_each_time_and_compiles() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sources = Sources { dirs: 2, files: 2, headers: 5 };
        for place in [&one, &two] {
            make(place.path(), sources).unwrap();
        }
        for name in ["Makefile", "include/h4.h", "d1/f1.c", "d0/Kconfig"] {
            let read = |place: &tempfile::TempDir| fs::read(place.path().join(name)).unwrap();
            assert_eq!(read(&one), read(&two), "{name}");
        }
        if ["make", "cc", "ar"].iter().any(|name| program::find_in(name, program::path_dirs()).is_none()) {
            crate::skip::skipped("compiling needs make, cc and ar");
            return;
        }
        let made = Command::new("make").args(["-s", "-j2"]).current_dir(one.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(one.path().join("built-in.a").exists());
    }
}
