//! Every pair of operations over a small tree, with a point of persistence after each.
//!
//! Owns the list of operations and the numbering of the pairs. The idea is ACE's: most crash bugs
//! show with one or two operations on a tree of a few names.

use iomap_core::vfs::{Fallocate, IoFlags, RenameMode};

use super::op::{HELD, Op, Path};

const NO: IoFlags = IoFlags::empty();
const DIRECT: IoFlags = IoFlags::DIRECT;
const DSYNC: IoFlags = IoFlags::DSYNC;
const DIRECT_DSYNC: IoFlags = DIRECT.union(DSYNC);

/// What is paired: one operation, or two that mean something only together. With it the file or
/// directory that a sync after it is about.
const OPS: &[(&[Op], Path)] = &[
    (&[Op::Create("A/new")], "A/new"),
    (&[Op::Create("new")], "new"),
    (
        &[Op::Create("A/new"), Op::Append("A/new", 6000, NO)],
        "A/new",
    ),
    (&[Op::Mkdir("A/dir")], "A"),
    (&[Op::Mkdir("dir")], ""),
    (&[Op::Symlink("A/link", 40)], "A"),
    (&[Op::Symlink("sym", 900)], ""),
    (&[Op::Write("foo", 0, 1000, NO)], "foo"),
    (&[Op::Write("foo", 4096, 8192, NO)], "foo"),
    (&[Op::Write("foo", 30_000, 5000, NO)], "foo"),
    (&[Op::Write("A/bar", 10, 50, NO)], "A/bar"),
    (&[Op::Write("A/bar", 5000, 3000, NO)], "A/bar"),
    (&[Op::Write("foo", 5000, 9000, DSYNC)], "foo"),
    (&[Op::Append("foo", 3000, NO)], "foo"),
    (&[Op::Append("foo", 3000, DSYNC)], "foo"),
    (&[Op::Append("A/bar", 20, NO)], "A/bar"),
    (&[Op::Append("A/bar", 20, DSYNC)], "A/bar"),
    (&[Op::Append("A/bar", 6000, NO)], "A/bar"),
    (&[Op::Append("B/baz", 12_000, NO)], "B/baz"),
    (&[Op::Write("foo", 4096, 4096, DIRECT)], "foo"),
    (&[Op::Write("foo", 20_480, 8192, DIRECT)], "foo"),
    (&[Op::Write("foo", 4096, 4096, DIRECT_DSYNC)], "foo"),
    (&[Op::Write("foo", 20_480, 8192, DIRECT_DSYNC)], "foo"),
    (&[Op::Write("B/baz", 0, 4096, DIRECT_DSYNC)], "B/baz"),
    (
        &[Op::Fallocate("foo", Fallocate::Allocate, 24_576, 8192)],
        "foo",
    ),
    (
        &[Op::Fallocate(
            "foo",
            Fallocate::AllocateKeepSize,
            20_480,
            8192,
        )],
        "foo",
    ),
    (
        &[Op::Fallocate("foo", Fallocate::PunchHole, 4096, 4096)],
        "foo",
    ),
    (
        &[Op::Fallocate("foo", Fallocate::PunchHole, 1000, 7000)],
        "foo",
    ),
    (
        &[Op::Fallocate("foo", Fallocate::ZeroRange, 2000, 20_000)],
        "foo",
    ),
    (
        &[Op::Fallocate(
            "foo",
            Fallocate::ZeroRangeKeepSize,
            4096,
            8192,
        )],
        "foo",
    ),
    (
        &[Op::Fallocate("foo", Fallocate::CollapseRange, 4096, 4096)],
        "foo",
    ),
    (
        &[Op::Fallocate("foo", Fallocate::InsertRange, 4096, 4096)],
        "foo",
    ),
    (
        &[Op::Fallocate("A/bar", Fallocate::PunchHole, 0, 50)],
        "A/bar",
    ),
    (&[Op::Truncate("foo", 5000)], "foo"),
    (&[Op::Truncate("foo", 0)], "foo"),
    (&[Op::Truncate("foo", 40_000)], "foo"),
    (&[Op::Truncate("A/bar", 10)], "A/bar"),
    (&[Op::Truncate("A/bar", 3000)], "A/bar"),
    (&[Op::Rename("foo", "A/foo", RenameMode::Replace)], "A/foo"),
    (&[Op::Rename("foo", "A/bar", RenameMode::Replace)], "A/bar"),
    (&[Op::Rename("A/bar", "foo", RenameMode::Replace)], "foo"),
    (&[Op::Rename("foo", "B/baz", RenameMode::Exchange)], "foo"),
    (&[Op::Rename("A", "C", RenameMode::Replace)], ""),
    (&[Op::Rename("E", "A/E", RenameMode::Replace)], "A"),
    (&[Op::Rename("B/sym", "A/sym", RenameMode::Replace)], "B"),
    (&[Op::Link("foo", "A/foo")], "A/foo"),
    (&[Op::Link("A/bar", "bar")], "bar"),
    (&[Op::Unlink("foo")], ""),
    (&[Op::Unlink("A/bar")], "A"),
    (&[Op::Unlink("B/baz")], "B"),
    (&[Op::Rmdir("E")], ""),
    (&[Op::Hold("foo"), Op::Unlink("foo")], HELD),
    (&[Op::Clone("foo", 0, 8192, "B/baz", 0)], "B/baz"),
    (&[Op::Clone("foo", 4096, 15_904, "B/empty", 0)], "B/empty"),
    (&[Op::Clone("B/baz", 0, 9000, "foo", 20_480)], "foo"),
    (&[Op::SetXattr("foo", "user.a", 100)], "foo"),
    (&[Op::SetXattr("A/bar", "user.b", 3000)], "A/bar"),
    (&[Op::RemoveXattr("B/baz", "user.x")], "B/baz"),
];

/// What may come after an operation.
#[derive(Clone, Copy)]
enum Persist {
    Nothing,
    Fsync,
    Fdatasync,
    Sync,
    /// The file itself is only on its way when something else is made durable.
    Other,
}

const AFTER: [Persist; 5] = [
    Persist::Nothing,
    Persist::Fsync,
    Persist::Fdatasync,
    Persist::Sync,
    Persist::Other,
];

/// Sequences in all.
pub const COUNT: usize = OPS.len() * OPS.len() * AFTER.len() * (AFTER.len() - 1);

/// Sequence number `n` modulo [`COUNT`].
#[must_use]
pub fn sequence(n: usize) -> Vec<Op> {
    let (n, first) = (n / OPS.len(), n % OPS.len());
    let (n, second) = (n / OPS.len(), n % OPS.len());
    // Something must be persistent at the end, or nothing was promised.
    let (n, last) = (n / (AFTER.len() - 1), 1 + n % (AFTER.len() - 1));
    let mut ops = Vec::new();
    for ((these, about), after) in [
        (OPS[first], AFTER[n % AFTER.len()]),
        (OPS[second], AFTER[last]),
    ] {
        ops.extend_from_slice(these);
        after.add(about, &mut ops);
    }
    ops
}

impl Persist {
    fn add(self, about: Path, ops: &mut Vec<Op>) {
        let is_directory = matches!(about, "" | "A" | "B");
        match self {
            Self::Nothing => {}
            Self::Fsync | Self::Fdatasync if is_directory => ops.push(Op::FsyncDir(about)),
            Self::Fsync => ops.push(Op::Fsync(about)),
            Self::Fdatasync => ops.push(Op::Fdatasync(about)),
            Self::Sync => ops.push(Op::Sync),
            Self::Other => {
                if !is_directory {
                    ops.push(Op::Writeback(about, false));
                }
                ops.push(Op::FsyncDir("B"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_number_is_another_sequence() {
        let texts: HashSet<_> = (0..COUNT).map(|n| format!("{:?}", sequence(n))).collect();
        // After a directory or a held file some syncs are the same.
        assert!(texts.len() > COUNT * 3 / 4, "{} of {COUNT}", texts.len());
    }
}
