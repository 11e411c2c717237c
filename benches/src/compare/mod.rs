//! The comparison runner behind `cargo xtask bench`: the same work done by several sides, in turns,
//! in one run.
//!
//! Owns the words ([`Group`], [`Side`], [`Role`]) and the order of the work. How a round is timed is
//! in [`sample`]; what is compared is in [`cases`]; which ratios the project promises is in
//! [`budgets`]; what comes out is in [`report`]. Does not assert anything about time: a verdict is a
//! line in a table.
//!
//! # How a number comes about
//!
//! A group has several sides that do the same operations. Every round runs each side once, in a
//! rotated order, so that a slow second of the machine hits all of them. A ratio is the median over
//! the rounds of the ratio inside one round. Beside it stand the quartiles of those, and the interval
//! in which the true median lies with 95 % confidence. Rounds go on until that interval settles the
//! group's budgets, or there have been enough of them.

pub mod budgets;
pub mod cases;
pub mod fuse;
pub mod host;
pub mod machine;
pub mod report;
pub mod sample;

use sample::Clock;

/// What a side is for its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// This project.
    Ours,
    /// What no implementation can be faster than: memory, the bare ring, the bare system call.
    Floor,
    /// The kernel's file systems.
    Kernel,
    /// What does the same for its users.
    Rival,
    /// Another program, for calibration.
    Tool,
}

/// Does that many operations, with the clock running around the part that counts.
pub type Work = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;

/// Makes the work, or says why it cannot run here.
pub type Setup = Box<dyn FnOnce() -> Result<Work, String>>;

/// One way of doing the operations of a group.
pub struct Side {
    /// Unique in its group.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Makes it.
    pub setup: Setup,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Side {
    /// A side whose work is made by `setup`.
    pub fn new<W, S>(name: &'static str, role: Role, setup: S) -> Self
    where
        W: FnMut(u64, &mut Clock) -> Result<(), String> + 'static,
        S: FnOnce() -> Result<W, String> + 'static,
    {
        Self {
            name,
            role,
            setup: Box::new(|| Ok(Box::new(setup()?) as Work)),
        }
    }
}

/// How many operations a round has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// As many as fit the time of a round.
    Fit,
    /// This many, because the operation is a whole pass.
    Fixed(u64),
}

/// Where a group is drawn.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Plot {
    /// Groups with the same name share a picture.
    pub picture: &'static str,
    /// The position on the horizontal axis: bytes of a call.
    pub x: f64,
}

/// The same operations, done by several sides.
#[derive(Debug)]
pub struct Group {
    /// Unique; `--only` looks for a part of it.
    pub id: String,
    /// What one operation is.
    pub operation: String,
    /// What is left out.
    pub excludes: &'static str,
    /// Bytes of the file that one operation serves; zero if it serves none.
    pub bytes: u64,
    /// Operations in a round.
    pub ops: Ops,
    /// Where it is drawn, if at all.
    pub plot: Option<Plot>,
    /// Who does them.
    pub sides: Vec<Side>,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each group, at least.
    pub rounds: usize,
    /// Rounds of a group whose budgets the first rounds leave open, at most.
    pub rounds_max: usize,
    /// A group that has run this long, in milliseconds, gets no further round beyond the least.
    pub group_ms: u64,
    /// Wall time of one side in one round, in milliseconds, where the operations can be fitted.
    pub round_ms: u64,
    /// Whether groups beyond the budgets are measured too.
    pub wide: bool,
    /// What is varied.
    pub vary: Vary,
}

/// The values of what is varied; the command line may give others.
#[derive(Clone, Copy, Debug)]
pub struct Vary {
    /// Bytes of a call.
    pub sizes: &'static [u64],
    /// Requests in flight.
    pub depths: &'static [usize],
    /// Threads that work at once.
    pub threads: &'static [usize],
    /// Percent of the reads that find their page in the cache.
    pub hits: &'static [u8],
    /// Files of a directory.
    pub files: &'static [u64],
}

impl Effort {
    /// A few minutes.
    pub const QUICK: Self = Self {
        rounds: 11,
        rounds_max: 61,
        group_ms: 5000,
        round_ms: 12,
        wide: false,
        vary: Vary {
            sizes: &[4 << 10, 64 << 10, 1 << 20],
            depths: &[32],
            threads: &[2],
            hits: &[90],
            files: &[10_000],
        },
    };
    /// Everything.
    pub const FULL: Self = Self {
        rounds: 31,
        rounds_max: 121,
        group_ms: 20_000,
        round_ms: 25,
        wide: true,
        vary: Vary {
            sizes: &[
                512,
                2 << 10,
                4 << 10,
                8 << 10,
                16 << 10,
                64 << 10,
                256 << 10,
                1 << 20,
                4 << 20,
            ],
            depths: &[2, 4, 8, 32, 128],
            threads: &[2, 4, 8],
            hits: &[10, 50, 90, 99],
            files: &[100, 1000, 10_000, 100_000],
        },
    };
}
