//! What a command ends with when it does not succeed.

use std::fmt;
use std::process::ExitCode;

use fusewire::remedy;
pub use fusewire_bpf::with_causes;

/// How a command failed; it decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong: exit status 2.
    Usage,
    /// The command line was understood and could not be carried out: exit status 1.
    Failed,
}

/// An error as the user reads it: what failed, on which path and why, then what to try.
#[derive(Debug)]
pub struct Failure {
    what: String,
    tries: Vec<String>,
    kind: Kind,
}

/// What every command returns.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// The command could not be carried out. `what` names the action, the path and the reason.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), tries: Vec::new(), kind: Kind::Failed }
    }

    /// The command line cannot be meant like this.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { what: what.into(), tries: Vec::new(), kind: Kind::Usage }
    }

    /// Somebody else has printed what went wrong.
    pub fn told_already() -> Self {
        Self::new("")
    }

    /// Whether there is nothing left to print.
    pub fn is_told(&self) -> bool {
        self.what.is_empty()
    }

    /// `what` could not be done because of `error`: its text and its causes follow, and what helps against it.
    pub fn because(what: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(format!("{what}: {}", with_causes(error))).for_error(error)
    }

    /// Adds what helps against `error`, whatever was tried; if nothing is known to, how to learn more.
    pub fn for_error(self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.or_try(remedy::of(error).unwrap_or("the same with -vv, which logs what led to it"))
    }

    /// Adds something the user can do about it.
    pub fn or_try(mut self, remedy: impl Into<String>) -> Self {
        self.tries.push(remedy.into());
        self
    }

    /// How it failed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit status that goes with it.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Usage => ExitCode::from(2),
            Kind::Failed => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for remedy in &self.tries {
            write!(f, "\n  try: {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_follow_on_their_own_lines() {
        let failure =
            Failure::new("cannot mount /a on /b: /b is missing").or_try("mkdir /b").or_try("another place");
        assert_eq!(
            failure.to_string(),
            "cannot mount /a on /b: /b is missing\n  try: mkdir /b\n  try: another place"
        );
        assert_eq!(failure.kind(), Kind::Failed);
        assert_eq!(Failure::usage("x").kind(), Kind::Usage);
    }

    #[test]
    fn what_the_system_says_comes_with_what_helps() {
        let text = |number| {
            let error = std::io::Error::from_raw_os_error(number);
            Failure::because("cannot catch signals", &error).to_string()
        };
        assert_eq!(
            text(libc::EMFILE),
            "cannot catch signals: Too many open files (os error 24)\n  try: raise the limit of open files: ulimit -n, or \
             LimitNOFILE= of the service"
        );
        assert!(text(libc::EDOM).ends_with("try: the same with -vv, which logs what led to it"));
    }

    #[test]
    fn causes_are_not_repeated() {
        #[derive(Debug)]
        struct Outer(&'static str, std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.1)
            }
        }
        let cause = || std::io::Error::other("disk on fire");
        assert_eq!(with_causes(&Outer("read failed", cause())), "read failed: disk on fire");
        assert_eq!(with_causes(&Outer("read failed: disk on fire", cause())), "read failed: disk on fire");
    }
}
