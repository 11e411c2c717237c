//! Races as schedules: each interleaving that breaks a rule, replayed step by step on the shipped
//! code, and found again by a search that knows nothing of it.
//!
//! Owns what a race and a script are ([`Race`]), the list of them ([`RACES`]), and the picture of a
//! run ([`trace`], [`render`]). Running needs a build whose locks, atomics and threads are scheduled
//! (`--cfg iomap_shuttle`; `cargo xtask race` makes it): there `engine` runs a script or a search,
//! `file` and `disk`, `dax` and `journal` are the file systems and devices, and `scenes` the threads. The rules are the
//! core's ([`iomap_core::mutation::Rule`]); turning one off needs the feature `mutation`.
//!
//! A script says which thread runs until which step. A thread that waits for a lock, for the disk or
//! for somebody else gives way to the next line, so the same script runs with the rule on, where the
//! bad interleaving cannot happen, and with the rule off, where it does.

#[cfg(iomap_shuttle)]
mod dax;
#[cfg(iomap_shuttle)]
mod disk;
#[cfg(iomap_shuttle)]
pub mod engine;
#[cfg(iomap_shuttle)]
mod file;
#[cfg(iomap_shuttle)]
mod journal;
mod list;
pub mod render;
#[cfg(iomap_shuttle)]
mod scenes;
#[cfg(iomap_shuttle)]
mod schedule;
pub mod trace;

pub use list::RACES;

/// A thread of a race, and the column it is drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its name in scripts.
    pub name: &'static str,
    /// The heading of its column.
    pub column: &'static str,
}

/// One line of a script: a thread runs until it has taken a step, or cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The thread.
    pub actor: &'static str,
    /// How the step begins.
    pub until: &'static str,
    /// What the picture says of it.
    pub says: &'static str,
}

/// A race of the discussions.
#[derive(Debug)]
pub struct Race {
    /// Its name on the command line.
    pub name: &'static str,
    /// What runs beside what.
    pub title: &'static str,
    /// The discussion it comes from.
    pub discussion: &'static str,
    /// The rules that prevent it; with any of them off the script ends badly.
    pub rules: &'static [&'static str],
    /// What goes wrong.
    pub harm: &'static str,
    /// The threads, in the order of their columns.
    pub actors: &'static [Actor],
    /// The bad interleaving.
    pub script: &'static [Line],
}

/// A thread runs as far as it can.
const AS_FAR_AS_IT_CAN: &str = "(as far as it can)";

/// The race called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Race> {
    RACES.iter().find(|race| race.name == name)
}

impl Race {
    /// The number of a thread.
    #[must_use]
    pub fn actor(&self, name: &str) -> Option<usize> {
        self.actors.iter().position(|actor| actor.name == name)
    }

    /// The headings, each once, in order.
    #[must_use]
    pub fn columns(&self) -> Vec<&'static str> {
        let mut columns: Vec<&str> = Vec::new();
        for actor in self.actors {
            if !columns.contains(&actor.column) {
                columns.push(actor.column);
            }
        }
        columns
    }

    /// The script as a picture: no run, so no state beside it.
    #[must_use]
    pub fn drawn(&self) -> trace::Trace {
        let mut trace = trace::Trace::new(self);
        for line in self.script {
            if let Some(number) = self.actor(line.actor) {
                trace.push(
                    self.actors[number],
                    line.says.to_owned(),
                    String::new(),
                    String::new(),
                );
            }
        }
        trace.end = trace::End::Bad(self.harm.to_owned());
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_of_the_book_are_those_of_the_command() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/races");
        for race in RACES {
            let path = format!("{folder}/{}.svg", race.name);
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            let name = race.name;
            assert!(
                there == render::svg(&race.drawn()),
                "make it anew: cargo xtask race show {name} --svg docs/races/{name}.svg"
            );
        }
    }

    #[test]
    fn scripts_name_threads_of_their_race_and_rules_that_exist() {
        for race in RACES {
            for line in race.script {
                assert!(
                    race.actor(line.actor).is_some(),
                    "{}: {}",
                    race.name,
                    line.actor
                );
            }
            for rule in race.rules {
                let known = iomap_core::mutation::Rule::ALL
                    .iter()
                    .any(|r| r.name() == *rule);
                assert!(known, "{}: {rule}", race.name);
            }
        }
    }
}
