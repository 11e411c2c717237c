//! Who runs next: schedulers that switch threads where steps are taken.
//!
//! Owns [`Script`], which follows the script of a race; [`AtSteps`], which lets another scheduler
//! choose at steps only; and [`Bounded`], which tries every schedule of a bounded number of
//! preemptions. Between two steps a thread runs on, unless it waits or yields: that makes a search
//! short, and its schedules readable.

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

use super::engine::{actor_tasks, has_step, steps};
use super::{AS_FAR_AS_IT_CAN, Race};

/// Yields in a row after which a thread counts as one that waits.
const SPINS: usize = 40;
/// Yields in a row for which a search takes a thread for one that goes on. A thread also yields where
/// it only is polite; PCT would never let it run again before the thread it was to overtake.
const POLITE: usize = 8;
/// Decisions for which the thread of the line before runs on, so that it wakes the one that is next.
const GRACE: usize = 400;

/// Runs the threads as the script of a race says; after its last line, in turn.
#[derive(Debug)]
pub(super) struct Script {
    race: &'static Race,
    /// The line under way.
    line: usize,
    /// Steps recorded when it began.
    seen: usize,
    /// Yields in a row.
    spins: usize,
    /// Decisions spent on waking the thread of the line, and the steps taken when that began.
    grace: usize,
    mark: Option<usize>,
    /// Whether the thread of the line has run in it.
    ran: bool,
    started: bool,
}

impl Script {
    pub(super) const fn new(race: &'static Race) -> Self {
        Self {
            race,
            line: 0,
            seen: 0,
            spins: 0,
            grace: 0,
            mark: None,
            ran: false,
            started: false,
        }
    }

    /// Whether the line under way is over: its step was taken since it began.
    fn is_over(&self) -> bool {
        let line = &self.race.script[self.line];
        line.until != AS_FAR_AS_IT_CAN && has_step(self.race, line.actor, line.until, self.seen)
    }

    fn next_line(&mut self) {
        self.line += 1;
        self.spins = 0;
        self.grace = 0;
        self.mark = None;
        self.ran = false;
        self.seen = steps();
    }

    /// The thread of the line before, while that has not taken another step: the thread of this line
    /// waits for something it is about to do.
    fn waker(&mut self, ids: &[TaskId], tasks: &[(TaskId, &str)]) -> Option<TaskId> {
        let before = self.race.script.get(self.line.checked_sub(1)?)?.actor;
        let task = tasks.iter().find(|(_, name)| *name == before)?.0;
        let mark = *self.mark.get_or_insert_with(steps);
        let may = ids.contains(&task) && self.grace < GRACE && steps() == mark;
        self.grace += 1;
        may.then_some(task)
    }
}

impl Scheduler for Script {
    fn new_execution(&mut self) -> Option<Schedule> {
        let first = !std::mem::replace(&mut self.started, true);
        first.then(|| Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let ids: Vec<TaskId> = runnable.iter().map(|task| task.id()).collect();
        let tasks = actor_tasks();
        // The scene itself, and threads that have not said who they are, go first.
        let stranger = ids
            .iter()
            .find(|id| !tasks.iter().any(|(task, _)| task == *id));
        if tasks.len() < self.race.actors.len()
            && let Some(id) = stranger
        {
            return Some(*id);
        }
        self.spins += usize::from(is_yielding);
        while self.line < self.race.script.len() {
            let actor = self.race.script[self.line].actor;
            let task = tasks.iter().find(|(_, name)| *name == actor).map(|t| t.0);
            let can_run = task.is_some_and(|task| ids.contains(&task)) && self.spins < SPINS;
            if can_run && !self.is_over() {
                self.mark = None;
                self.ran = true;
                return task;
            }
            // Who has run as far as it can is not waited for.
            let went = self.ran && self.race.script[self.line].until == AS_FAR_AS_IT_CAN;
            if !can_run
                && !went
                && !self.is_over()
                && let Some(waker) = self.waker(&ids, &tasks)
            {
                return Some(waker);
            }
            self.next_line();
        }
        // In turn: nobody is left behind, and who waits by yielding gets what it waits for.
        let later = |id: &&TaskId| current.is_some_and(|c| usize::from(**id) > usize::from(c));
        ids.iter().find(later).or(ids.first()).copied()
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// Whether the current thread just goes on: it can, it does not yield, and it took no step.
fn goes_on(
    runnable: &[&Task],
    current: Option<TaskId>,
    is_yielding: bool,
    seen: usize,
) -> Option<TaskId> {
    let current = current.filter(|_| !is_yielding && steps() == seen)?;
    runnable
        .iter()
        .any(|task| task.id() == current)
        .then_some(current)
}

/// Another scheduler, asked only where a step was taken or a thread waits.
#[derive(Debug)]
pub(super) struct AtSteps<S> {
    inner: S,
    seen: usize,
    /// Yields since the last step.
    yields: usize,
}

impl<S> AtSteps<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            seen: 0,
            yields: 0,
        }
    }
}

impl<S: Scheduler> Scheduler for AtSteps<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        (self.seen, self.yields) = (0, 0);
        self.inner.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        if let Some(task) = goes_on(runnable, current, is_yielding, self.seen) {
            return Some(task);
        }
        self.yields = if is_yielding && steps() == self.seen {
            self.yields + 1
        } else {
            0
        };
        self.seen = steps();
        let waits = is_yielding && self.yields > POLITE;
        self.inner.next_task(runnable, current, waits)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

/// Every schedule with at most so many preemptions, depth first: those with at most one, then those
/// with at most two, and so on. A switch away from a thread that waits, yields or has ended is none.
#[derive(Debug)]
pub(super) struct Bounded {
    /// At each choice of the run: which, and of how many.
    levels: Vec<(usize, usize)>,
    /// Choices made in this run.
    depth: usize,
    seen: usize,
    preemptions: usize,
    /// The bound now, and at last.
    bound: usize,
    most: usize,
    /// Runs left, and whether this is the first.
    left: usize,
    first: bool,
}

impl Bounded {
    /// At most `schedules` runs of at most `most` preemptions each.
    pub(super) const fn new(most: usize, schedules: usize) -> Self {
        Self {
            levels: Vec::new(),
            depth: 0,
            seen: 0,
            preemptions: 0,
            bound: 1,
            most,
            left: schedules,
            first: true,
        }
    }

    /// Goes to the next combination of choices, or to one more preemption. `false`: there is none.
    fn advance(&mut self) -> bool {
        if self.next_combination() {
            return true;
        }
        self.bound += 1;
        self.bound <= self.most
    }

    fn next_combination(&mut self) -> bool {
        while let Some((chosen, of)) = self.levels.pop() {
            if chosen + 1 < of {
                self.levels.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

impl Scheduler for Bounded {
    fn new_execution(&mut self) -> Option<Schedule> {
        let first = std::mem::replace(&mut self.first, false);
        if self.left == 0 || !(first || self.advance()) {
            return None;
        }
        self.left -= 1;
        (self.depth, self.seen, self.preemptions) = (0, 0, 0);
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        if let Some(task) = goes_on(runnable, current, is_yielding, self.seen) {
            return Some(task);
        }
        self.seen = steps();
        let ids: Vec<TaskId> = runnable.iter().map(|task| task.id()).collect();
        let own = current.filter(|current| ids.contains(current));
        let preempts = own.is_some() && !is_yielding;
        let mut choices: Vec<TaskId> = own.filter(|_| preempts).into_iter().collect();
        if !preempts || self.preemptions < self.bound {
            choices.extend(ids.iter().filter(|id| Some(**id) != own));
        }
        if choices.is_empty() {
            choices.extend(own);
        }
        if choices.len() < 2 {
            return choices.first().copied();
        }
        if self.depth == self.levels.len() {
            self.levels.push((0, choices.len()));
        }
        let chosen = self.levels[self.depth].0;
        self.depth += 1;
        self.preemptions += usize::from(preempts && chosen > 0);
        choices.get(chosen).or(choices.last()).copied()
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
