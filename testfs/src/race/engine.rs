//! Runs a race: by its script, or by a search for a bad schedule.
//!
//! Owns the record of the steps of the run under way, and what a search is. Who runs next is
//! [`schedule`](super::schedule). All threads of a run are coroutines of one thread, so the record is
//! thread-local and needs no lock; looking at a lock or an atomic of the core is a point where the
//! scheduler may switch, recording a step is not.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use iomap_core::sync::{Rank, rank, thread};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::schedule::{AtSteps, Bounded, Script};
use super::trace::{End, Trace};
use super::{Actor, Race, scenes};

/// What a search tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Any thread at any point.
    Random,
    /// Priorities that change at a few points: holds one thread for as long as another needs.
    Pct,
    /// Every schedule of a few preemptions, depth first.
    DepthFirst,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The last run: the bad one, if there was one.
    pub trace: Trace,
    /// Runs made.
    pub schedules: usize,
}

impl Outcome {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.trace.end == End::Good
    }
}

/// Changes of priority of a PCT schedule, and preemptions of a depth-first one.
const DEPTH: usize = 4;
const PREEMPTIONS: usize = 3;
/// Decisions in one run after which it counts as one that never ends.
const STEPS: usize = 200_000;

/// A file whose state stands beside the steps.
pub(super) trait Watched {
    /// The watched page in a few words.
    fn state(&self) -> String;
}

/// The run under way.
#[derive(Default)]
struct Run {
    trace: Trace,
    /// The threads of the race, by task.
    tasks: Vec<(TaskId, Actor)>,
    /// What to look at for the state beside a step.
    file: Option<Arc<dyn Watched>>,
    schedules: usize,
    bad: Option<String>,
}

std::thread_local! {
    static RUN: RefCell<Run> = RefCell::new(Run::default());
}

/// Runs the script of a race.
#[must_use]
pub fn replay(race: &'static Race) -> Outcome {
    run(race, Script::new(race))
}

/// Searches `schedules` schedules, the first ones `seed` gives. `fine`: threads may be switched at
/// every lock and atomic, not at steps only (depth first is always at steps).
#[must_use]
pub fn search(
    race: &'static Race,
    search: Search,
    schedules: usize,
    seed: u64,
    fine: bool,
) -> Outcome {
    let random = RandomScheduler::new_from_seed(seed, schedules);
    let pct = PctScheduler::new_from_seed(seed, DEPTH, schedules);
    match (search, fine) {
        (Search::Random, true) => run(race, random),
        (Search::Random, false) => run(race, AtSteps::new(random)),
        (Search::Pct, true) => run(race, pct),
        (Search::Pct, false) => run(race, AtSteps::new(pct)),
        (Search::DepthFirst, _) => run(race, Bounded::new(PREEMPTIONS, schedules)),
    }
}

fn run(race: &'static Race, scheduler: impl Scheduler + 'static) -> Outcome {
    RUN.with(|run| *run.borrow_mut() = Run::default());
    watch_events();
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::None;
    let runner = Runner::new(scheduler, config);
    // A bad run ends with a panic, and its message is told below.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| runner.run(move || one_run(race))));
    std::panic::set_hook(hook);
    RUN.with(|run| {
        let run = &mut *run.borrow_mut();
        // A bad run leaves its file to nobody: ending it would need a scheduler.
        std::mem::forget(run.file.take());
        let mut trace = std::mem::take(&mut run.trace);
        if let Err(panic) = result {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let said = said.unwrap_or_else(|| "a panic without a message".to_owned());
            trace.end = End::Bad(run.bad.take().unwrap_or(said));
        }
        Outcome {
            trace,
            schedules: run.schedules,
        }
    })
}

/// One schedule of a race.
fn one_run(race: &'static Race) {
    RUN.with(|run| {
        let mut run = run.borrow_mut();
        run.trace = Trace::new(race);
        run.tasks.clear();
        run.bad = None;
        run.schedules += 1;
    });
    scenes::play(race);
    // Its end is scheduled as well: not with the record borrowed.
    let file = RUN.with(|run| run.borrow_mut().file.take());
    drop(file);
}

/// Says which file the state beside the steps is of.
pub(super) fn look_at(file: &Arc<impl Watched + 'static>) {
    let file = Arc::clone(file);
    RUN.with(|run| run.borrow_mut().file = Some(file));
}

/// Starts a thread of the race.
pub(super) fn start(
    race: &'static Race,
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let actor = race.actor(name).map(|number| race.actors[number]);
        if let Some(actor) = actor {
            let me = shuttle::current::me();
            RUN.with(|run| run.borrow_mut().tasks.push((me, actor)));
        }
        body();
    })
}

/// Records a step of this thread, with the state after it.
pub(super) fn note(text: &str) {
    let file = RUN.with(|run| run.borrow().file.clone());
    let state = file.map_or(String::new(), |file| file.state());
    record(text, state);
}

/// Records a step of this thread at this very point: with locks held, under which the state cannot be
/// looked at.
pub(super) fn note_here(text: &str) {
    record(text, String::new());
}

fn record(text: &str, state: String) {
    let Some(me) = shuttle::current::try_get_current_task() else {
        return;
    };
    let locks = held();
    RUN.with(|run| {
        let Ok(mut run) = run.try_borrow_mut() else {
            return;
        };
        let actor = run
            .tasks
            .iter()
            .find(|(task, _)| *task == me)
            .map(|(_, actor)| *actor);
        if let Some(actor) = actor {
            run.trace.push(actor, text.to_owned(), locks, state);
        }
    });
}

/// The locks this thread holds, those that matter between threads of a race.
fn held() -> String {
    const NAMES: [(Rank, &str); 6] = [
        (Rank::Inode, "inode"),
        (Rank::Invalidate, "inval"),
        (Rank::TransactionBeforeFolio, "trans"),
        (Rank::Folio, "folio"),
        (Rank::TransactionInFolio, "trans"),
        (Rank::Mapping, "map"),
    ];
    let held: Vec<&str> = NAMES
        .iter()
        .filter(|(rank, _)| rank::is_held(*rank))
        .map(|(_, name)| *name)
        .collect();
    held.join("+")
}

/// Ends the run as a bad one.
///
/// # Panics
///
/// Always: that is how a schedule ends early.
pub(super) fn bad(what: &str) -> ! {
    RUN.with(|run| run.borrow_mut().bad = Some(what.to_owned()));
    panic!("{what}");
}

// ---- what schedulers ask

/// Steps recorded so far in this run.
pub(super) fn steps() -> usize {
    RUN.with(|run| run.borrow().trace.events.len())
}

/// The threads of the race that have begun, by task.
pub(super) fn actor_tasks() -> Vec<(TaskId, &'static str)> {
    RUN.with(|run| {
        run.borrow()
            .tasks
            .iter()
            .map(|(task, actor)| (*task, actor.name))
            .collect()
    })
}

/// Whether a step that begins with `text` was taken in the column of `actor`, after the first `seen`
/// steps.
pub(super) fn has_step(race: &Race, actor: &str, text: &str, seen: usize) -> bool {
    let column = race.actor(actor).map(|number| race.actors[number].column);
    RUN.with(|run| {
        let run = run.borrow();
        let columns = &run.trace.columns;
        let own = |n: usize| columns.get(n).map(String::as_str) == column;
        let mut since = run.trace.events.iter().skip(seen);
        since.any(|event| own(event.column) && event.text.starts_with(text))
    })
}

// ---- what the core tells

/// Has the events of the core recorded as steps, from now on, in the whole process.
fn watch_events() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // Another subscriber that was there first gets the events, and the picture has fewer steps.
        let _first = tracing::subscriber::set_global_default(Events);
    });
}

/// Turns events of the core into steps.
#[derive(Debug)]
struct Events;

/// The events that are steps of a race: target, message, how the step reads.
const STEPS_OF_THE_CORE: &[(&str, &str, &str)] = &[
    ("iomap::direct", "begin", "in-flight count raised"),
    (
        "iomap::direct",
        "settled",
        "cache settled: nothing to wait for",
    ),
    ("iomap::direct", "complete", "in-flight count lowered"),
    (
        "iomap::folio",
        "unlocked",
        "folio unlocked before the done hook",
    ),
];

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event()
            && STEPS_OF_THE_CORE
                .iter()
                .any(|step| step.0 == metadata.target())
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let target = event.metadata().target();
        let step = STEPS_OF_THE_CORE
            .iter()
            .find(|step| step.0 == target && step.1 == message.0);
        if let Some((_, _, text)) = step {
            note_here(text);
        }
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}

/// The message of an event.
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
