//! Blocks that have one owner again, but that a durable tree may still give to two.
//!
//! Owns the set and its two stages. Such a block must not be written in place: after a crash the
//! other owner would find in it what this one wrote. So it counts as shared until the commit that
//! has the change is durable (rule C6).

use std::collections::BTreeMap;

use crate::format::{DiskBlock, DiskRun};

/// Runs that neither touch nor overlap.
#[derive(Debug, Default)]
struct Runs(BTreeMap<DiskBlock, DiskBlock>);

impl Runs {
    fn insert(&mut self, run: DiskRun) {
        let (mut start, mut end) = (run.start, run.end());
        while let Some((from, to)) = self.0.range(..=end).next_back().map(|(f, t)| (*f, *t)) {
            if to < start {
                break;
            }
            self.0.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.0.insert(start, end);
    }

    /// The start of `run` that is in the set as a whole, or not at all: how long, and which.
    fn start_of(&self, run: DiskRun) -> (u64, bool) {
        let here = self.0.range(..=run.start).next_back();
        if let Some((_, end)) = here
            && *end > run.start
        {
            return (end.since(run.start).min(run.len), true);
        }
        let next = self.0.range(run.start..run.end()).next();
        let len = next.map_or(run.len, |(start, _)| start.since(run.start));
        (len, false)
    }
}

/// The blocks of the running generation, and of those that are being committed.
#[derive(Debug, Default)]
pub(in crate::meta) struct Lone {
    running: Runs,
    committing: Runs,
}

impl Lone {
    /// The blocks of `run` have one owner in the running generation.
    pub(in crate::meta) fn insert(&mut self, run: DiskRun) {
        self.running.insert(run);
    }

    /// The running generation ends, its commit begins.
    pub(in crate::meta) fn begin_commit(&mut self) {
        for (start, end) in std::mem::take(&mut self.running).0 {
            self.committing
                .insert(DiskRun::new(start, end.since(start)));
        }
    }

    /// Everything whose commit had begun is durable.
    pub(in crate::meta) fn end_commit(&mut self) {
        self.committing.0.clear();
    }

    /// Whether the start of `run` must not be written in place, and for how many blocks that holds.
    pub(in crate::meta) fn start_of(&self, run: DiskRun) -> (u64, bool) {
        let (len, running) = self.running.start_of(run);
        let (len, committing) = self.committing.start_of(run.take(len));
        (len, running || committing)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_block_is_in_the_set_from_its_insertion_to_the_end_of_its_commit(
            ops in prop::collection::vec((0..8u8, 0u64..60, 1u64..12), 1..40),
        ) {
            let mut lone = Lone::default();
            let (mut running, mut committing) = (BTreeSet::new(), BTreeSet::new());
            for (kind, start, len) in ops {
                match kind {
                    0 => {
                        lone.begin_commit();
                        committing.append(&mut running);
                    }
                    1 => {
                        lone.end_commit();
                        committing.clear();
                    }
                    _ => {
                        lone.insert(DiskRun::new(DiskBlock::new(start), len));
                        running.extend(start..start + len);
                    }
                }
                let inside = |block: u64| running.contains(&block) || committing.contains(&block);
                let mut at = 0;
                while at < 80 {
                    let rest = DiskRun::new(DiskBlock::new(at), 80 - at);
                    let (len, there) = lone.start_of(rest);
                    prop_assert!(len > 0 && (at..at + len).all(|block| inside(block) == there));
                    at += len;
                }
            }
        }
    }
}
