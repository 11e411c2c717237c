//! Blocks: who uses each, and what the reference counts say.
//!
//! Owns the comparison. Runs are collected during the walk and swept over once, sorted.

use super::{Census, Finding, Findings};
use crate::format::{DiskBlock, DiskRun, Geometry};

/// What begins or ends at a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Meta(i8),
    Data(i8),
    /// The blocks are unwritten in a file.
    Unwritten(i8),
    /// Adds to the stored number of owners.
    Stored(i64),
}

/// Uses of blocks, as found.
#[derive(Debug)]
pub(super) struct Usage {
    geometry: Geometry,
    edges: Vec<(DiskBlock, Edge)>,
}

/// Who uses the blocks between two edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Users {
    meta: i64,
    data: i64,
    unwritten: i64,
    /// From reference count items: 0 if there is none.
    stored: i64,
}

impl Users {
    fn apply(&mut self, edge: Edge) {
        match edge {
            Edge::Meta(n) => self.meta += i64::from(n),
            Edge::Data(n) => self.data += i64::from(n),
            Edge::Unwritten(n) => self.unwritten += i64::from(n),
            Edge::Stored(n) => self.stored += n,
        }
    }

    /// Blocks that cannot be shared, and are.
    const fn used_twice(&self) -> bool {
        self.meta > 1 || (self.meta > 0 && self.data > 0) || (self.unwritten > 0 && self.data > 1)
    }
}

impl Usage {
    pub(super) fn new(geometry: Geometry) -> Self {
        let mut usage = Self {
            geometry,
            edges: Vec::new(),
        };
        for run in geometry.superblock_runs() {
            usage.add(run, Edge::Meta(1), Edge::Meta(-1));
        }
        usage
    }

    /// A node of the tree.
    pub(super) fn node(&mut self, block: DiskBlock) {
        self.add(DiskRun::new(block, 1), Edge::Meta(1), Edge::Meta(-1));
    }

    /// Blocks of a file. Returns whether they exist.
    pub(super) fn data(&mut self, run: DiskRun) -> bool {
        self.add(run, Edge::Data(1), Edge::Data(-1))
    }

    /// Blocks of a file, told to [`Usage::data`] as well, that must not be shared.
    pub(super) fn unwritten(&mut self, run: DiskRun) {
        self.add(run, Edge::Unwritten(1), Edge::Unwritten(-1));
    }

    /// A reference count. Returns whether its blocks exist.
    pub(super) fn refcount(&mut self, run: DiskRun, count: u32) -> bool {
        let count = i64::from(count);
        self.add(run, Edge::Stored(count), Edge::Stored(-count))
    }

    fn add(&mut self, run: DiskRun, begin: Edge, end: Edge) -> bool {
        if !self.geometry.contains(run) {
            return false;
        }
        self.edges.push((run.start, begin));
        self.edges.push((run.end(), end));
        true
    }

    /// Compares uses and counts.
    pub(super) fn check(mut self, census: &mut Census, findings: &mut Findings) {
        self.edges.sort_unstable_by_key(|(at, _)| *at);
        let mut users = Users::default();
        let mut bad: Option<(DiskRun, Users)> = None;
        let mut from = DiskBlock::new(0);
        for (at, edge) in self.edges {
            let run = DiskRun::new(from, at.since(from));
            if run.len > 0 {
                if users.meta + users.data > 0 {
                    census.used_blocks += run.len;
                }
                if users.data > 1 {
                    census.shared_blocks += run.len;
                }
                bad = judge(bad, run, users, findings);
            }
            users.apply(edge);
            from = at;
        }
        report(bad, findings);
    }
}

/// Adds `run` to the bad run before it if that is of the same kind, else reports the one before.
fn judge(
    bad: Option<(DiskRun, Users)>,
    run: DiskRun,
    users: Users,
    findings: &mut Findings,
) -> Option<(DiskRun, Users)> {
    if let Some((before, same)) = bad
        && same == users
        && before.end() == run.start
    {
        return Some((DiskRun::new(before.start, before.len + run.len), users));
    }
    report(bad, findings);
    let expected = if users.data > 1 { users.data } else { 0 };
    (users.used_twice() || users.stored != expected).then_some((run, users))
}

fn report(bad: Option<(DiskRun, Users)>, findings: &mut Findings) {
    let Some((run, users)) = bad else {
        return;
    };
    if users.used_twice() {
        findings.add(Finding::UsedTwice { run });
        return;
    }
    findings.add(Finding::Refcount {
        run,
        stored: users.stored.max(1).unsigned_abs(),
        counted: users.data.unsigned_abs(),
    });
}
