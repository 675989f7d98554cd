//! What one running case has at hand: descriptors, kept values, mappings, forked processes; and how a step is run.

use crate::case::{Case, Step, User};
use crate::ops::{self, Args, Done, Trouble};
use crate::process::Actor;
use crate::sys::Map;
use crate::value::{self, Mismatch, Saved, Value};
use crate::words;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Signal, Uid};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// The step at which a case failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// Step, from 1; 0 when the failure belongs to no step (a hang, a dead process, a failed clean-up).
    pub step: usize,
    /// Number of steps of the case.
    pub of: usize,
    /// The step as text.
    pub text: String,
    /// What should have happened.
    pub expected: String,
    /// What happened.
    pub got: String,
    /// The errno behind it as a number, where one is.
    pub errno: Option<i32>,
    /// The case's remark on this step.
    pub note: Option<String>,
}

pub(crate) struct World<'a> {
    pub case: &'a Case,
    pub fds: HashMap<String, OwnedFd>,
    pub saved: Saved,
    pub maps: HashMap<String, Map>,
    pub actors: HashMap<String, Actor>,
    pub tick: Duration,
}

impl<'a> World<'a> {
    pub fn new(case: &'a Case, tick: Duration) -> Self {
        Self {
            case,
            fds: HashMap::new(),
            saved: Saved::new(),
            maps: HashMap::new(),
            actors: HashMap::new(),
            tick,
        }
    }

    /// Runs the whole case in the current directory, and ends the processes it has forked.
    pub fn run(&mut self) -> Result<(), Box<Failure>> {
        let result = (0..self.case.steps.len()).try_for_each(|at| self.run_step(at));
        self.actors.drain().for_each(|(_, actor)| actor.kill());
        result
    }

    /// Runs one step, here or in the forked process it names.
    pub fn run_step(&mut self, at: usize) -> Result<(), Box<Failure>> {
        let step = &self.case.steps[at];
        let Some(name) = &step.actor else { return self.run_here(at) };
        let Some(actor) = self.actors.get_mut(name) else {
            return Err(self.failure(
                at,
                Trouble::Case(format!("no process is called `{name}`; `fork` comes first")),
                "",
            ));
        };
        let sent = if step.background {
            actor.start(at).map(|()| Ok(()))
        } else {
            actor.start(at).and_then(|()| actor.finish())
        };
        sent.unwrap_or_else(|why| {
            let died = Mismatch { expected: "the forked process lives".to_owned(), got: why };
            Err(self.failure(at, Trouble::Wrong(died), ""))
        })
    }

    /// Runs one step in this process, whatever actor it names.
    pub fn run_here(&mut self, at: usize) -> Result<(), Box<Failure>> {
        let step = &self.case.steps[at];
        for count in 0..step.repeat {
            let answer = self.call(step, count);
            let times = if step.repeat > 1 { format!(" (repetition {count})") } else { String::new() };
            self.judge(step, answer, count).map_err(|trouble| self.failure(at, trouble, &times))?;
        }
        Ok(())
    }

    fn call(&mut self, step: &Step, count: u64) -> Done {
        let operation = ops::find(&step.operation)
            .ok_or_else(|| Trouble::Case(format!("no operation `{}`", step.operation)))?;
        let masked = step.umask.map(|mask| rustix::process::umask(Mode::from_raw_mode(mask)));
        let own = step.user.as_ref().map(become_user).transpose()?;
        let answer = (operation.run)(self, &Args { step, count });
        if let Some(own) = own {
            own.restore()?;
        }
        if let Some(mask) = masked {
            rustix::process::umask(mask);
        }
        answer
    }

    fn judge(&mut self, step: &Step, answer: Done, count: u64) -> Result<(), Trouble> {
        match answer {
            Ok(value) if !step.errno.is_empty() => ops::wrong(show_errnos(&step.errno), value.show()),
            Ok(value) => {
                if let Some(want) = &step.expect {
                    // What changes between two calls (free space) can only be compared within one answer.
                    self.saved.insert("self".to_owned(), value.clone());
                    value::check(want, &value, &self.saved, None).map_err(Trouble::Wrong)?;
                }
                if let Some(name) = &step.save {
                    self.saved.insert(name.replace("{i}", &count.to_string()), value);
                }
                Ok(())
            }
            Err(Trouble::Errno(errno)) if step.errno.contains(&errno) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    fn failure(&self, at: usize, trouble: Trouble, times: &str) -> Box<Failure> {
        let step = &self.case.steps[at];
        let mut number = None;
        let (expected, got) = match trouble {
            Trouble::Errno(errno) => {
                number = Some(errno.raw_os_error());
                let expected =
                    if step.errno.is_empty() { "success".to_owned() } else { show_errnos(&step.errno) };
                (expected, words::show_errno(errno))
            }
            Trouble::Wrong(mismatch) => (mismatch.expected, mismatch.got),
            Trouble::Case(why) => ("a case that makes sense".to_owned(), why),
        };
        let text = format!("{}{times}", step.text);
        Box::new(Failure {
            step: at + 1,
            of: self.case.steps.len(),
            text,
            expected,
            got,
            errno: number,
            note: step.note.clone(),
        })
    }

    /// The descriptor kept as `name`.
    pub fn fd(&self, name: &str) -> Result<BorrowedFd<'_>, Trouble> {
        self.fds
            .get(name)
            .map(AsFd::as_fd)
            .ok_or_else(|| Trouble::Case(format!("no descriptor is called `{name}`")))
    }

    /// The descriptor an argument names.
    pub fn arg_fd(&self, args: &Args<'_>, key: &str) -> Result<BorrowedFd<'_>, Trouble> {
        self.fd(&args.text(key)?)
    }

    /// The directory named by `key`, or the case's own.
    pub fn dir(&self, args: &Args<'_>, key: &str) -> Result<BorrowedFd<'_>, Trouble> {
        args.opt_text(key)?.map_or(Ok(rustix::fs::CWD), |name| self.fd(&name))
    }

    /// Keeps a descriptor under the step's `as`; without one it is closed at once.
    pub fn keep(&mut self, args: &Args<'_>, fd: OwnedFd) -> Done {
        if args.step.save.is_some() {
            self.fds.insert(args.save()?, fd);
        }
        Ok(Value::Unit)
    }
}

fn show_errnos(list: &[Errno]) -> String {
    list.iter().map(|e| words::show_errno(*e)).collect::<Vec<_>>().join(" or ")
}

/// What the process was before it became somebody else.
struct Own {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

/// Takes another identity: real and effective ids, so that `access(2)` answers for it too; the saved uid stays, as the
/// way back. Capabilities leave the effective set with uid 0 and come back with it.
fn become_user(user: &User) -> Result<Own, Trouble> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let refused =
        |errno: Errno| Trouble::Case(format!("cannot become uid {}: {}", user.uid, words::show_errno(errno)));
    let groups = rustix::process::getgroups()?;
    let own = Own { uid: rustix::process::geteuid(), gid: rustix::process::getegid(), groups };
    let extra: Vec<Gid> = user.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&extra).map_err(refused)?;
    set_thread_res_gid(gid, gid, own.gid).map_err(refused)?;
    set_thread_res_uid(uid, uid, own.uid).map_err(refused)?;
    Ok(own)
}

impl Own {
    fn restore(self) -> Result<(), Trouble> {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let stuck = |errno: Errno| {
            Trouble::Case(format!("cannot return to uid {}: {}", self.uid.as_raw(), words::show_errno(errno)))
        };
        set_thread_res_uid(self.uid, self.uid, self.uid).map_err(stuck)?;
        set_thread_res_gid(self.gid, self.gid, self.gid).map_err(stuck)?;
        set_thread_groups(&self.groups).map_err(stuck)?;
        // A change of identity clears it; without it a killed runner would leave this process behind.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        Ok(())
    }
}
