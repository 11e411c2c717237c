//! What happened in a run: steps in the order they were taken.
//!
//! Owns the record. How it looks is [`render`](super::render); what is recorded, the scene.

use super::{Actor, Race};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the column.
    pub column: usize,
    /// What the thread did.
    pub text: String,
    /// The locks it held.
    pub locks: String,
    /// The state of what the race is about.
    pub state: String,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Nothing was wrong.
    #[default]
    Good,
    /// What went wrong.
    Bad(String),
}

/// The steps of one run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The race, and what is special about the run.
    pub title: String,
    /// The headings of the columns.
    pub columns: Vec<String>,
    /// The steps.
    pub events: Vec<Event>,
    /// How it ended.
    pub end: End,
}

impl Trace {
    /// No step yet.
    #[must_use]
    pub fn new(race: &Race) -> Self {
        Self {
            title: format!("{}: {}", race.name, race.title),
            columns: race.columns().into_iter().map(str::to_owned).collect(),
            events: Vec::new(),
            end: End::Good,
        }
    }

    /// Adds a step.
    pub fn push(&mut self, actor: Actor, text: String, locks: String, state: String) {
        let column = self
            .columns
            .iter()
            .position(|column| column == actor.column);
        let column = column.unwrap_or(0);
        self.events.push(Event {
            column,
            text,
            locks,
            state,
        });
    }
}
