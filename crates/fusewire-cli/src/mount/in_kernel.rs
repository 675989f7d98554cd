//! Having the kernel give answers again by itself.

use std::time::Duration;

use fusewire::{Generation, NodeId};
use fusewire_bpf::{Guard, Scope, guard};
use fusewire_fs::policy::{Action, Effect, InKernel, Moment, Subject, Subjects};

use super::plan::Plan;
use crate::args::KernelAnswers;
use crate::failure::{Failure, Outcome};

/// The programs for it, if they are wanted and the kernel takes them.
///
/// # Errors
/// If they are wanted in any case and the kernel does not take them.
pub fn start(plan: &Plan) -> Outcome<Option<Guard>> {
    let scope = match (plan.kernel_answers, &plan.policy) {
        (KernelAnswers::Off, _) | (KernelAnswers::Auto, None) => return Ok(None),
        // Nobody is ever refused anything.
        (_, None) => Scope::Absent,
        (_, Some(_)) => Scope::All,
    };
    match Guard::start(scope) {
        Ok(guard) => {
            tracing::info!("the kernel gives answers again by itself (BPF LSM)");
            Ok(Some(guard))
        }
        Err(refused) if plan.kernel_answers == KernelAnswers::Always => {
            Err(Failure::new(format!("the kernel cannot be had to give answers by itself: {refused}"))
                .or_try(refused.remedy())
                .or_try("--kernel-answers auto, which does without"))
        }
        Err(refused) => {
            tracing::info!("every answer is asked for: {refused}");
            Ok(None)
        }
    }
}

/// The programs, for a filesystem.
#[derive(Debug)]
pub struct Answers(pub Guard);

fn node(node: NodeId, generation: Generation) -> guard::Node {
    guard::Node { node: node.raw(), generation: generation.0 }
}

impl InKernel for Answers {
    fn denied(&self, moment: Moment, subject: Subject, action: Action) {
        let node = node(moment.node, moment.generation);
        self.0.deny(node, (subject.uid, subject.gid), action as u16, moment.version);
    }

    fn denials_of(&self, version: u64) {
        self.0.denials_of(version);
    }

    fn close(&self, (id, generation): (NodeId, Generation), list: &[Subjects], others: Effect) -> bool {
        if list.len() > guard::SUBJECTS {
            return false;
        }
        let list: Vec<_> = list
            .iter()
            .map(|one| guard::Subjects {
                denied: one.effect == Effect::Deny,
                uids: (*one.uids.start(), *one.uids.end()),
                gids: (*one.gids.start(), *one.gids.end()),
            })
            .collect();
        self.0.close(node(id, generation), &list, others == Effect::Deny)
    }

    fn open(&self, (id, generation): (NodeId, Generation)) {
        self.0.open(node(id, generation));
    }

    fn absent(&self, (id, generation): (NodeId, Generation), name: &[u8], valid: Duration) {
        self.0.absent(node(id, generation), name, valid);
    }

    fn answered(&self) -> (u64, u64) {
        let answers = self.0.answers();
        (answers.denied, answers.absent)
    }

    fn ended(&self) {
        let (denied, absent) = self.answered();
        self.0.rest();
        tracing::info!(denied, absent, "answers that the kernel gave by itself");
    }

    fn perhaps_present(&self, (id, generation): (NodeId, Generation), name: &[u8]) {
        self.0.perhaps_present(node(id, generation), name);
    }
}
