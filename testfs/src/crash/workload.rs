//! The workloads by name.
//!
//! Owns what each does, drawn from a seed. Sequences of two operations are [`ace`]'s.

use fastrand::Rng;
use iomap_core::vfs::{Fallocate, IoFlags, RenameMode};

use super::ace;
use super::op::{HELD, Op, Path};

const NO: IoFlags = IoFlags::empty();
const DIRECT: IoFlags = IoFlags::DIRECT;
const DSYNC: IoFlags = IoFlags::DSYNC;

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    make: fn(&mut Rng) -> Vec<Op>,
}

impl Workload {
    /// The operations of this seed.
    #[must_use]
    pub fn ops(&self, seed: u64) -> Vec<Op> {
        (self.make)(&mut Rng::with_seed(seed))
    }

    /// The workload of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|workload| workload.name == name)
    }
}

/// Every workload.
pub static ALL: &[Workload] = &[
    Workload {
        name: "ace",
        about: "two operations of a small tree, with points of persistence",
        make: |rng| ace::sequence(rng.usize(..ace::COUNT)),
    },
    Workload {
        name: "append",
        about: "appends, each followed by a kind of sync",
        make: append,
    },
    Workload {
        name: "overwrite",
        about: "overwrites of parts of blocks, followed by fdatasync",
        make: overwrite,
    },
    Workload {
        name: "dsync",
        about: "direct writes that are durable when they return",
        make: dsync,
    },
    Workload {
        name: "rename",
        about: "a new file written, synced, and renamed over the old one",
        make: rename,
    },
    Workload {
        name: "falloc",
        about: "writes into space allocated before",
        make: falloc,
    },
    Workload {
        name: "punch",
        about: "holes and zeroes in a file that is written again",
        make: punch,
    },
    Workload {
        name: "truncate",
        about: "a file cut and grown again",
        make: truncate,
    },
    Workload {
        name: "reflink",
        about: "writes to both sides of shared storage",
        make: reflink,
    },
    Workload {
        name: "xattr",
        about: "extended attributes small and large",
        make: xattr,
    },
    Workload {
        name: "unlink",
        about: "files removed while they are open, their blocks used again",
        make: unlink,
    },
    Workload {
        name: "mixed",
        about: "everything, at random",
        make: mixed,
    },
];

fn sync(rng: &mut Rng, path: Path) -> Op {
    match rng.u8(..8) {
        0..3 => Op::Fsync(path),
        3..6 => Op::Fdatasync(path),
        6 => Op::FsyncDir("B"),
        _ => Op::Sync,
    }
}

fn append(rng: &mut Rng) -> Vec<Op> {
    let path = *rng
        .choice(["A/bar", "foo", "B/empty"].iter())
        .unwrap_or(&"foo");
    let mut ops = Vec::new();
    for _ in 0..rng.usize(3..8) {
        let len = match rng.u8(..3) {
            0 => rng.u64(1..200),
            1 => rng.u64(200..5000),
            _ => rng.u64(5000..20_000),
        };
        let flags = if rng.u8(..4) == 0 { DSYNC } else { NO };
        ops.push(Op::Append(path, len, flags));
        if flags == NO && rng.u8(..4) == 0 {
            ops.push(Op::Writeback(path, rng.bool()));
        } else if flags == NO {
            ops.push(sync(rng, path));
        }
    }
    ops
}

fn overwrite(rng: &mut Rng) -> Vec<Op> {
    let mut ops = Vec::new();
    for _ in 0..rng.usize(4..9) {
        let pos = rng.u64(..19_000);
        let len = rng.u64(1..(20_000 - pos).min(9000));
        ops.push(Op::Write("foo", pos, len, NO));
        match rng.u8(..4) {
            0 => {}
            1 => ops.push(Op::Writeback("foo", rng.bool())),
            _ => ops.push(Op::Fdatasync("foo")),
        }
    }
    ops
}

fn dsync(rng: &mut Rng) -> Vec<Op> {
    let mut ops = Vec::new();
    for n in 0..rng.usize(4..10) {
        let pos = rng.u64(..7) * 4096;
        let len = rng.u64(1..4) * 4096;
        let flags = match rng.u8(..4) {
            0 => DIRECT,
            1 => DIRECT.union(IoFlags::SYNC),
            _ => DIRECT.union(DSYNC),
        };
        ops.push(Op::Write("foo", pos, len, flags));
        match rng.u8(..6) {
            0 => ops.push(Op::Fallocate(
                "foo",
                Fallocate::AllocateKeepSize,
                pos,
                16_384,
            )),
            1 => ops.push(Op::Write("foo", rng.u64(..30_000), 700, NO)),
            2 => ops.push(Op::Fdatasync("foo")),
            3 if n > 1 => ops.push(Op::Fallocate("foo", Fallocate::PunchHole, pos, 4096)),
            _ => {}
        }
    }
    ops
}

fn rename(rng: &mut Rng) -> Vec<Op> {
    let mut ops = Vec::new();
    let to = if rng.bool() { "foo" } else { "A/bar" };
    for n in 0..rng.usize(2..5) {
        let len = *rng.choice([60, 3000, 9000, 17_000].iter()).unwrap_or(&60);
        ops.extend([Op::Create("A/tmp"), Op::Append("A/tmp", len, NO)]);
        ops.push(match rng.u8(..3) {
            0 => Op::Fsync("A/tmp"),
            1 => Op::Fdatasync("A/tmp"),
            _ => Op::Append("A/tmp", 500, DSYNC),
        });
        ops.push(Op::Rename("A/tmp", to, RenameMode::Replace));
        match rng.u8(..3) {
            0 => ops.push(Op::FsyncDir("A")),
            1 if n > 0 => ops.push(Op::Sync),
            _ => {}
        }
    }
    ops
}

fn falloc(rng: &mut Rng) -> Vec<Op> {
    let path = if rng.bool() { "foo" } else { "B/empty" };
    let mut ops = Vec::new();
    for _ in 0..rng.usize(2..5) {
        let (pos, len) = (rng.u64(..40_000), rng.u64(1..20_000));
        let mode = *rng
            .choice([Fallocate::Allocate, Fallocate::AllocateKeepSize].iter())
            .unwrap_or(&Fallocate::Allocate);
        ops.push(Op::Fallocate(path, mode, pos, len));
        ops.push(match rng.u8(..3) {
            0 => Op::Write(path, pos / 4096 * 4096, 8192, DIRECT),
            _ => Op::Write(path, pos + len / 2, rng.u64(1..9000), NO),
        });
        if rng.u8(..4) == 0 {
            ops.push(Op::Writeback(path, false));
            ops.push(Op::FsyncDir("A"));
        } else {
            ops.push(sync(rng, path));
        }
    }
    ops
}

fn punch(rng: &mut Rng) -> Vec<Op> {
    const MODES: [Fallocate; 6] = [
        Fallocate::PunchHole,
        Fallocate::PunchHole,
        Fallocate::ZeroRange,
        Fallocate::ZeroRangeKeepSize,
        Fallocate::CollapseRange,
        Fallocate::InsertRange,
    ];
    let mut ops = Vec::new();
    for _ in 0..rng.usize(3..7) {
        let mode = MODES[rng.usize(..MODES.len())];
        let shifts = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        if shifts || rng.bool() {
            ops.push(Op::Fallocate("foo", mode, rng.u64(..4) * 4096, 4096));
        } else {
            ops.push(Op::Fallocate(
                "foo",
                mode,
                rng.u64(..18_000),
                rng.u64(1..9000),
            ));
        }
        match rng.u8(..3) {
            0 => {}
            1 => ops.push(Op::Write("foo", rng.u64(..20_000), rng.u64(1..6000), NO)),
            _ => ops.push(Op::Append("B/baz", 5000, NO)),
        }
        let path = if rng.bool() { "foo" } else { "B/baz" };
        ops.push(sync(rng, path));
    }
    ops
}

fn truncate(rng: &mut Rng) -> Vec<Op> {
    let path = *rng
        .choice(["foo", "B/baz", "A/bar"].iter())
        .unwrap_or(&"foo");
    let mut ops = Vec::new();
    for _ in 0..rng.usize(3..8) {
        ops.push(match rng.u8(..5) {
            0 | 1 => Op::Truncate(path, rng.u64(..20_000)),
            2 => Op::Truncate(path, rng.u64(..40_000)),
            3 => Op::Write(path, rng.u64(..30_000), rng.u64(1..5000), NO),
            _ => Op::Append(path, rng.u64(1..5000), NO),
        });
        match rng.u8(..4) {
            0 => {}
            1 => ops.push(Op::FsyncDir("B")),
            2 => ops.extend([Op::Writeback(path, true), Op::FsyncDir("B")]),
            _ => ops.push(sync(rng, path)),
        }
    }
    ops
}

fn reflink(rng: &mut Rng) -> Vec<Op> {
    let mut ops = vec![Op::Clone("foo", 0, 20_000, "B/empty", 0)];
    for _ in 0..rng.usize(3..7) {
        let path = if rng.bool() { "foo" } else { "B/empty" };
        let pos = rng.u64(..4) * 4096;
        ops.push(match rng.u8(..6) {
            0 => Op::Clone("foo", pos, 4096, "B/baz", pos),
            1 => Op::Write(path, pos, 8192, DIRECT),
            2 => Op::Write(path, pos, 4096, DIRECT.union(DSYNC)),
            3 => Op::Fallocate(path, Fallocate::PunchHole, pos, 5000),
            _ => Op::Write(path, rng.u64(..19_000), rng.u64(1..5000), NO),
        });
        match rng.u8(..4) {
            0 => ops.extend([Op::Writeback(path, false), Op::FsyncDir("A")]),
            _ => ops.push(sync(rng, path)),
        }
    }
    ops
}

fn xattr(rng: &mut Rng) -> Vec<Op> {
    const NAMES: [&str; 3] = ["user.a", "user.b", "trusted.c"];
    const PATHS: [Path; 4] = ["foo", "A/bar", "B/baz", "A"];
    let mut ops = Vec::new();
    for _ in 0..rng.usize(5..12) {
        let path = PATHS[rng.usize(..PATHS.len())];
        let name = NAMES[rng.usize(..NAMES.len())];
        ops.push(match rng.u8(..4) {
            0 => Op::RemoveXattr(path, name),
            1 => Op::SetXattr(path, name, rng.u16(1000..9000)),
            _ => Op::SetXattr(path, name, rng.u16(..300)),
        });
        match rng.u8(..4) {
            0 => ops.push(Op::Sync),
            1 if path != "A" => ops.push(Op::Fsync(path)),
            2 => ops.push(Op::FsyncDir("A")),
            _ => {}
        }
    }
    ops
}

fn unlink(rng: &mut Rng) -> Vec<Op> {
    let victim = if rng.bool() { "foo" } else { "B/baz" };
    let mut ops = Vec::new();
    if rng.bool() {
        ops.push(Op::Hold(victim));
    }
    ops.push(Op::Unlink(victim));
    for n in 0..rng.usize(3..7) {
        ops.push(match rng.u8(..6) {
            0 => Op::Write(HELD, rng.u64(..20_000), 5000, NO),
            1 => Op::Fsync(HELD),
            2 if n > 0 => Op::Release,
            3 => Op::Create("A/new"),
            _ => Op::Append("A/bar", rng.u64(1..30_000), NO),
        });
        match rng.u8(..3) {
            0 => ops.push(Op::Fsync("A/bar")),
            1 => ops.push(Op::FsyncDir("A")),
            _ => {}
        }
    }
    ops
}

const FILES: [Path; 6] = ["foo", "A/bar", "B/baz", "B/empty", "A/new", HELD];
const NAMES: [Path; 8] = [
    "foo", "A/bar", "B/baz", "B/empty", "A/new", "new", "E", "A/E",
];

fn mixed(rng: &mut Rng) -> Vec<Op> {
    (0..rng.usize(8..24)).map(|_| any(rng)).collect()
}

fn any(rng: &mut Rng) -> Op {
    let path = FILES[rng.usize(..FILES.len())];
    let (name, other) = (
        NAMES[rng.usize(..NAMES.len())],
        NAMES[rng.usize(..NAMES.len())],
    );
    let (pos, len) = (rng.u64(..30_000), rng.u64(1..9000));
    let flags = if rng.u8(..4) == 0 { DSYNC } else { NO };
    match rng.u8(..34) {
        0 | 1 => Op::Create(name),
        2 => Op::Mkdir(name),
        3 => Op::Symlink(name, rng.u16(1..2000)),
        4 => Op::Link(name, other),
        5 | 6 => Op::Rename(name, other, RenameMode::Replace),
        7 => Op::Rename(name, other, RenameMode::Exchange),
        8 => Op::Unlink(name),
        9 => Op::Rmdir(name),
        10..14 => Op::Write(path, pos, len, flags),
        14..16 => Op::Append(path, len, flags),
        16..18 => Op::Write(path, pos / 4096 * 4096, 8192, flags | DIRECT),
        18 => Op::Truncate(path, pos),
        19 => Op::Fallocate(path, Fallocate::Allocate, pos, len),
        20 => Op::Fallocate(path, Fallocate::PunchHole, pos, len),
        21 => Op::Fallocate(path, Fallocate::ZeroRange, pos, len),
        22 => Op::Clone("foo", 0, 8192, path, pos / 4096 * 4096),
        23 => Op::SetXattr(path, "user.a", rng.u16(..2000)),
        24 => Op::RemoveXattr(path, "user.a"),
        25 => Op::Hold(path),
        26 => Op::Release,
        27 | 28 => Op::Writeback(path, rng.bool()),
        29 => Op::FsyncDir("B"),
        30 => Op::Sync,
        31 => Op::Fsync(path),
        _ => Op::Fdatasync(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_a_seed_gives_the_same_operations_again() {
        for workload in ALL {
            let found = Workload::named(workload.name);
            assert!(found.is_some_and(|found| std::ptr::eq(found, workload)));
            assert_eq!(workload.ops(5), workload.ops(5));
            let seeds: Vec<_> = (0..20).map(|seed| workload.ops(seed)).collect();
            assert!(
                seeds.iter().any(|ops| *ops != seeds[0]),
                "{}",
                workload.name
            );
        }
    }
}
