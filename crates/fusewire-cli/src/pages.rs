//! Manual pages and shell completions, generated from the command line's definition.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Failure, Outcome};

/// Every manual page, as (file name, text).
///
/// # Errors
/// Those of formatting.
pub fn manual() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = vec![page("fusewire", root.clone())?];
    for command in root.get_subcommands() {
        let name = format!("fusewire-{}", command.get_name());
        let leaf: &'static str = name.clone().leak();
        pages.push(page(&name, command.clone().name(leaf).version(env!("CARGO_PKG_VERSION")))?);
    }
    Ok(pages)
}

fn page(name: &str, command: clap::Command) -> io::Result<(String, Vec<u8>)> {
    let notes = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let has_options = command.get_arguments().next().is_some();
    let has_commands = command.has_subcommands();
    let man = clap_mangen::Man::new(command)
        .title(name)
        .section("1")
        .source(format!("fusewire {}", env!("CARGO_PKG_VERSION")))
        .manual("Fusewire")
        .date("");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if has_options {
        man.render_options_section(&mut text)?;
    }
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(notes) = notes {
        text.write_all(roff(&notes).as_bytes())?;
    }
    Ok((format!("{name}.1"), text))
}

/// The text below the options of a help page. A line that ends in a colon is a heading; what is below `Examples` or a
/// heading that names a file is shown as it stands.
fn roff(notes: &str) -> String {
    let mut text = String::from(".SH NOTES\n");
    let mut verbatim = false;
    for line in notes.lines() {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-");
        let heading = escaped.strip_suffix(':').filter(|_| !line.starts_with(' '));
        if let Some(heading) = heading {
            if std::mem::take(&mut verbatim) {
                text.push_str(".fi\n");
            }
            text.push_str(&format!(".SS {heading}\n"));
            if heading.starts_with("Examples") || heading.starts_with("In /") {
                text.push_str(".nf\n");
                verbatim = true;
            }
        } else if verbatim && !line.is_empty() && !line.starts_with(' ') {
            text.push_str(&format!(".fi\n.PP\n{escaped}\n"));
            verbatim = false;
        } else if verbatim {
            text.push_str(&format!("{escaped}\n"));
        } else if line.is_empty() {
            text.push_str(".PP\n");
        } else {
            text.push_str(&format!("{}\n", escaped.trim_start()));
        }
    }
    if verbatim {
        text.push_str(".fi\n");
    }
    text
}

/// Writes the manual pages into `dir`.
///
/// # Errors
/// If the directory cannot be made or a page cannot be written.
pub fn write_manual(dir: &Path) -> Outcome<()> {
    let failed = |path: &Path, error: io::Error| {
        Failure::new(format!("cannot write manual pages to {}: {error}", path.display()))
            .or_try("a directory that you may write to, such as ~/.local/share/man/man1")
    };
    let pages = manual().map_err(|error| failed(dir, error))?;
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for (name, text) in pages {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// The completion script for `shell`.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fusewire", &mut text);
    text
}

/// Prints the completion script for `shell`.
///
/// # Errors
/// If standard output cannot be written to.
pub fn print_completions(shell: Shell) -> Outcome<()> {
    print(&completions(shell))
}

/// Prints bytes on standard output.
///
/// # Errors
/// If it cannot be written to. A reader that went away early, such as `head`, is not a failure.
pub fn print(bytes: &[u8]) -> Outcome<()> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::because("cannot write to standard output", &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn compare(path: &Path, text: &[u8], how: &str) {
        let stored = std::fs::read(path).unwrap_or_default();
        assert!(stored == text, "{} is out of date; run: {how}", path.display());
    }

    #[test]
    fn stored_manual_pages_are_up_to_date() {
        let pages = manual().expect("pages");
        for (name, text) in &pages {
            compare(&repository().join("man").join(name), text, "cargo run -p fusewire-cli -- man man");
        }
        let stored = std::fs::read_dir(repository().join("man")).expect("man").flatten();
        let strangers: Vec<_> = stored
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .filter(|file| !pages.iter().any(|(name, _)| name == file))
            .collect();
        assert!(strangers.is_empty(), "pages of commands that do not exist: {strangers:?}");
    }

    #[test]
    fn stored_completions_are_up_to_date() {
        for (shell, name) in
            [(Shell::Bash, "fusewire.bash"), (Shell::Zsh, "_fusewire"), (Shell::Fish, "fusewire.fish")]
        {
            let how = format!("cargo run -p fusewire-cli -- completions {shell} > completions/{name}");
            compare(&repository().join("completions").join(name), &completions(shell), &how);
        }
    }
}
