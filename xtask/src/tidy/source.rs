//! Rules about Rust sources, checked on the syntax tree.

use super::{Finding, is_test};
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a file without its tests.
const FILE_LINES: usize = 800;
/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;

/// Where the protocol lives, which must stay free of I/O: it is driven by tests and fuzzers, and by every channel.
const PROTOCOL: &str = "crates/fusewire/src/proto/";
/// What it may not name: the beginnings of paths.
const OUTSIDE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net"],
    &["std", "io"],
    &["std", "os"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time"],
    &["rustix", "fs"],
    &["rustix", "net"],
    &["rustix", "io"],
    &["rustix", "pipe"],
    &["rustix", "process"],
    &["rustix", "thread"],
    &["rustix", "event"],
    &["rustix", "mount"],
    &["rustix", "io_uring"],
    &["io_uring"],
    &["tokio"],
    &["crate", "channel"],
    &["crate", "mount"],
    &["crate", "sys"],
];

pub fn check(name: &str, content: &str) -> Vec<Finding> {
    let file = match syn::parse_file(content) {
        Ok(file) => file,
        Err(error) => {
            return vec![Finding::new(error.span().start().line, format!("cannot be parsed: {error}"))];
        }
    };
    let mut walk = Walk { name, findings: Vec::new(), test_lines: 0, in_test: is_test(name) };
    walk.visit_file(&file);
    let lines = content.lines().count() - walk.test_lines;
    if !is_test(name) && lines > FILE_LINES {
        let text = format!("{lines} lines without tests, {FILE_LINES} are allowed: split it by duty");
        walk.findings.push(Finding::new(FILE_LINES, text));
    }
    walk.findings
}

struct Walk<'a> {
    name: &'a str,
    findings: Vec<Finding>,
    /// Lines inside of `#[cfg(test)]` modules.
    test_lines: usize,
    in_test: bool,
}

/// Lines from the beginning of one span to the end of the other.
fn lines_between(start: Span, end: Span) -> usize {
    end.end().line + 1 - start.start().line
}

/// `#[cfg(test)]`, also inside of `all(..)`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let words = list.tokens.to_string();
        list.path.is_ident("cfg")
            && !words.contains("not")
            && words.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
    })
}

impl Walk<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = lines_between(signature.span(), block.span());
        if lines > FUNCTION_LINES && !self.in_test {
            let text = format!("{} has {lines} lines, {FUNCTION_LINES} are allowed", signature.ident);
            self.findings.push(Finding::new(signature.span().start().line, text));
        }
        if let syn::Safety::Unsafe(word) = &signature.safety {
            self.unsafe_word(word.span());
        }
    }

    fn unsafe_word(&mut self, span: Span) {
        let in_sys = self.name.ends_with("/sys.rs") || self.name.contains("/sys/");
        if !in_sys {
            let text = "unsafe belongs into a file sys.rs or a folder sys/, with its proof";
            self.findings.push(Finding::new(span.start().line, text));
        }
    }

    fn path(&mut self, words: &[String], line: usize) {
        if !self.name.starts_with(PROTOCOL) || self.in_test {
            return;
        }
        let forbidden = OUTSIDE
            .iter()
            .find(|path| words.len() >= path.len() && words.iter().zip(**path).all(|(a, b)| a == b));
        if let Some(path) = forbidden {
            let text = format!(
                "the protocol does no I/O and knows no channel, so it may not use {}",
                path.join("::")
            );
            self.findings.push(Finding::new(line, text));
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.path(&with(&name.ident), name.ident.span().start().line),
            syn::UseTree::Rename(rename) => self.path(&with(&rename.ident), rename.ident.span().start().line),
            syn::UseTree::Glob(glob) => self.path(before, glob.star_token.span().start().line),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let for_tests = is_for_tests(&item.attrs);
        if for_tests && !self.in_test && item.content.is_some() {
            self.test_lines += lines_between(item.span(), item.span());
        }
        let outside = self.in_test;
        self.in_test |= for_tests;
        visit::visit_item_mod(self, item);
        self.in_test = outside;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let for_tests = is_for_tests(&item.attrs);
        let outside = self.in_test;
        self.in_test |= for_tests;
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.in_test = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, expr: &'ast syn::ExprUnsafe) {
        self.unsafe_word(expr.unsafe_token.span());
        visit::visit_expr_unsafe(self, expr);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(word) = &item.unsafety {
            self.unsafe_word(word.span());
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&words, path.span().start().line);
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(name: &str, content: &str) -> Vec<String> {
        check(name, content)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.text))
            .collect()
    }

    #[track_caller]
    fn one(name: &str, content: &str, wanted: &str) {
        let found = texts(name, content);
        assert!(found.len() == 1 && found[0].contains(wanted), "{found:?}");
    }

    #[test]
    fn long_functions_and_files_are_found_outside_of_tests() {
        let long = format!("fn long() {{\n{}}}\n", "    call();\n".repeat(69));
        one("src/a.rs", &long, "1: long has 71 lines");
        assert!(texts("src/a.rs", &long.replacen("    call();\n", "", 1)).is_empty());
        assert!(texts("crates/a/tests/b.rs", &long).is_empty());
        assert!(texts("src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n")).is_empty());
        let many = "const X: u8 = 0;\n".repeat(790);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    const Y: u8 = 0;\n".repeat(500));
        assert!(texts("src/a.rs", &format!("{many}{tests}")).is_empty());
        one("src/a.rs", &format!("{many}{many}{tests}"), "1580 lines without tests");
    }

    #[test]
    fn unsafe_is_found_outside_of_sys() {
        for code in ["fn f() { unsafe { g() } }\n", "unsafe fn f() {}\n", "unsafe impl Send for X {}\n"] {
            one("src/a.rs", code, "unsafe belongs");
            assert!(texts("src/sys.rs", code).is_empty() && texts("src/sys/a.rs", code).is_empty());
        }
        assert!(texts("src/a.rs", "// unsafe\nfn f() { let text = \"unsafe { }\"; }\n").is_empty());
    }

    #[test]
    fn input_and_output_are_found_in_the_protocol() {
        let name = "crates/fusewire/src/proto/decode.rs";
        one(name, "use std::fs::File;\n", "std::fs");
        one(name, "use std::{ffi::CStr, net::{TcpStream as T}};\n", "std::net");
        one(name, "use rustix::*;\nuse rustix::fs::*;\n", "2: ");
        one(name, "fn f() { std::process::exit(1) }\n", "std::process");
        one(name, "fn f(x: &crate::channel::Slot) {}\n", "crate::channel");
        assert!(texts(name, "use std::{ffi::CStr, fmt};\nfn f() { std::mem::drop(1) }\n").is_empty());
        assert!(texts(name, "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n").is_empty());
        assert!(texts("crates/fusewire/src/channel/a.rs", "use std::fs::File;\n").is_empty());
    }
}
