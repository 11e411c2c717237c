//! Extents against arrays of blocks, and the account of space against counting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::error::FsError;
use proptest::prelude::*;

use super::ExtentState;
use crate::check::Finding;
use crate::format::item::Body;
use crate::format::{BlockRange, DiskBlock, FileBlock, Ino};
use crate::meta::testing::{at, file, new_fs, reopen};
use crate::meta::{Meta, Purpose};

const BLOCKS: usize = 64;

/// One file: for every block, where it is and whether it is unwritten.
type File = [Option<(u64, bool)>; BLOCKS];

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate(usize, BlockRange, bool),
    Convert(usize, BlockRange),
    MarkUnwritten(usize, BlockRange),
    Punch(usize, BlockRange),
    Remap(usize, BlockRange),
    Clone(usize, BlockRange, usize, u64),
    Collapse(usize, BlockRange),
    Insert(usize, BlockRange),
    Commit,
    Reopen,
}

fn range() -> impl Strategy<Value = BlockRange> {
    (0u64..BLOCKS as u64, 1u64..20).prop_map(|(start, len)| {
        BlockRange::between(
            FileBlock::new(start),
            FileBlock::new((start + len).min(BLOCKS as u64)),
        )
    })
}

fn step() -> impl Strategy<Value = Step> {
    let f = 0usize..3;
    prop_oneof![
        6 => (f.clone(), range(), any::<bool>()).prop_map(|(f, r, u)| Step::Allocate(f, r, u)),
        4 => (f.clone(), range()).prop_map(|(f, r)| Step::Convert(f, r)),
        2 => (f.clone(), range()).prop_map(|(f, r)| Step::MarkUnwritten(f, r)),
        4 => (f.clone(), range()).prop_map(|(f, r)| Step::Punch(f, r)),
        3 => (f.clone(), range()).prop_map(|(f, r)| Step::Remap(f, r)),
        4 => (f.clone(), range(), f.clone(), 0u64..BLOCKS as u64)
            .prop_map(|(f, r, t, a)| Step::Clone(f, r, t, a)),
        1 => (f.clone(), range()).prop_map(|(f, r)| Step::Collapse(f, r)),
        1 => (f, range()).prop_map(|(f, r)| Step::Insert(f, r)),
        1 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

struct World {
    device: Arc<MemoryDevice>,
    meta: Meta,
    inos: [Ino; 3],
    files: [File; 3],
    /// Blocks that had two owners and have one, since the last commit.
    lone: BTreeSet<u64>,
}

fn span(range: BlockRange) -> std::ops::Range<usize> {
    range.start().get() as usize..range.end().get() as usize
}

impl World {
    fn new(block_size: u32) -> Self {
        let (device, meta) = new_fs(block_size, 2048);
        let inos = [b"a", b"b", b"c"].map(|name| {
            meta.update(Purpose::Normal, |txn| txn.create(Ino::ROOT, name, &file()))
                .unwrap()
                .0
        });
        Self {
            device,
            meta,
            inos,
            files: [[None; BLOCKS]; 3],
            lone: BTreeSet::new(),
        }
    }

    fn owners(&self) -> BTreeMap<u64, u32> {
        let mut owners = BTreeMap::new();
        for (phys, _) in self.files.iter().flatten().flatten() {
            *owners.entry(*phys).or_default() += 1;
        }
        owners
    }

    /// Whether a block counts as shared.
    fn shared(&self, owners: &BTreeMap<u64, u32>, phys: u64) -> bool {
        owners[&phys] > 1 || self.lone.contains(&phys)
    }

    fn run(&mut self, step: Step) {
        let before = self.owners();
        let commits = matches!(step, Step::Commit | Step::Reopen);
        self.step(step);
        let after = self.owners();
        let left_alone = |(phys, owners): (&u64, &u32)| {
            (before.get(phys) > Some(&1) && *owners == 1).then_some(*phys)
        };
        self.lone.extend(after.iter().filter_map(left_alone));
        self.lone
            .retain(|phys| !commits && after.contains_key(phys));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate(f, range, unwritten) => self.allocate(f, range, unwritten),
            Step::Convert(f, range) => {
                let ino = self.inos[f];
                self.meta
                    .update(Purpose::Must, |txn| txn.convert_unwritten(ino, range))
                    .unwrap();
                for block in self.files[f][span(range)].iter_mut().flatten() {
                    block.1 = false;
                }
            }
            Step::MarkUnwritten(f, range) => self.mark_unwritten(f, range),
            Step::Punch(f, range) => {
                self.meta.punch(self.inos[f], range).unwrap();
                self.files[f][span(range)].fill(None);
            }
            Step::Remap(f, range) => self.remap(f, range),
            Step::Clone(f, range, t, start) => self.clone_range(f, range, t, start),
            Step::Collapse(f, range) => self.collapse(f, range),
            Step::Insert(f, range) => self.insert(f, range),
            Step::Commit => {
                self.meta.commit().unwrap();
            }
            Step::Reopen => {
                self.meta.commit().unwrap();
                self.meta = reopen(&self.device);
            }
        }
    }

    fn allocate(&mut self, f: usize, range: BlockRange, unwritten: bool) {
        let reservation = self.meta.reserve(range.len()).unwrap();
        let ino = self.inos[f];
        for block in span(range) {
            if self.files[f][block].is_some() {
                continue;
            }
            let rest = BlockRange::between(FileBlock::new(block as u64), range.end());
            let extent = self
                .meta
                .update(Purpose::Must, |txn| {
                    txn.allocate_extent(ino, rest, unwritten, None, &reservation)
                })
                .unwrap();
            let ExtentState::Mapped { start, .. } = extent.state else {
                panic!("allocated a hole");
            };
            for (n, block) in span(extent.range).enumerate() {
                assert_eq!(self.files[f][block], None, "allocated over blocks");
                self.files[f][block] = Some((start.get() + n as u64, unwritten));
            }
        }
    }

    fn mark_unwritten(&mut self, f: usize, range: BlockRange) {
        let owners = self.owners();
        let shared = self.files[f][span(range)]
            .iter()
            .flatten()
            .any(|(phys, _)| self.shared(&owners, *phys));
        let ino = self.inos[f];
        let result = self
            .meta
            .update(Purpose::Must, |txn| txn.mark_unwritten(ino, range));
        assert_eq!(result.is_err(), shared);
        if !shared {
            for block in self.files[f][span(range)].iter_mut().flatten() {
                block.1 = true;
            }
        }
    }

    fn remap(&mut self, f: usize, range: BlockRange) {
        let reservation = self.meta.reserve(range.len()).unwrap();
        let mut at = range.start();
        while at < range.end() {
            let want = range.end().since(at);
            let ino = self.inos[f];
            let grant = self
                .meta
                .update(Purpose::Must, |txn| txn.allocate(None, want, &reservation))
                .unwrap();
            let run = grant.run();
            self.meta
                .update(Purpose::Must, |txn| txn.remap(ino, at, grant))
                .unwrap();
            for n in 0..run.len {
                self.files[f][(at.get() + n) as usize] = Some((run.start.get() + n, false));
            }
            at = at.plus(run.len);
        }
    }

    fn clone_range(&mut self, f: usize, range: BlockRange, t: usize, start: u64) {
        let len = range.len().min(BLOCKS as u64 - start);
        let range = BlockRange::at(range.start(), len);
        let target = BlockRange::at(FileBlock::new(start), len);
        if f == t && !range.intersect(target).is_empty() {
            return;
        }
        let (from, to) = (self.inos[f], self.inos[t]);
        self.meta.punch(to, target).unwrap();
        self.files[t][span(target)].fill(None);
        self.meta
            .update(Purpose::Normal, |txn| {
                txn.clone_range(from, range, to, target.start())
            })
            .unwrap();
        for (a, b) in span(range).zip(span(target)) {
            self.files[t][b] = self.files[f][a].filter(|(_, unwritten)| !unwritten);
        }
    }

    fn collapse(&mut self, f: usize, range: BlockRange) {
        let ino = self.inos[f];
        self.meta.punch(ino, range).unwrap();
        self.meta
            .update(Purpose::Normal, |txn| txn.collapse(ino, range))
            .unwrap();
        let mut blocks = self.files[f].to_vec();
        blocks.drain(span(range));
        blocks.resize(BLOCKS, None);
        self.files[f].copy_from_slice(&blocks);
    }

    fn insert(&mut self, f: usize, range: BlockRange) {
        let ino = self.inos[f];
        // What would leave the model goes first.
        let last = BlockRange::between(
            FileBlock::new(BLOCKS as u64 - range.len()),
            FileBlock::new(BLOCKS as u64),
        );
        self.meta.punch(ino, last).unwrap();
        self.files[f][span(last)].fill(None);
        self.meta
            .update(Purpose::Normal, |txn| txn.insert_hole(ino, range))
            .unwrap();
        let mut blocks = self.files[f].to_vec();
        let at = range.start().get() as usize;
        blocks.splice(at..at, vec![None; range.len() as usize]);
        blocks.truncate(BLOCKS);
        self.files[f].copy_from_slice(&blocks);
    }

    fn compare(&self) {
        let owners = self.owners();
        for (ino, model) in self.inos.iter().zip(&self.files) {
            self.meta
                .read(|view| {
                    let used = model.iter().flatten().count() as u64;
                    assert_eq!(view.inode(*ino)?.blocks, used, "block count");
                    let mut rest = BlockRange::at(FileBlock::ZERO, BLOCKS as u64);
                    while !rest.is_empty() {
                        let extent = view.extent_at(*ino, rest)?;
                        for (n, block) in span(extent.range).enumerate() {
                            let expected = match model[block] {
                                None => ExtentState::Hole,
                                Some((phys, unwritten)) => ExtentState::Mapped {
                                    start: DiskBlock::new(phys - n as u64),
                                    unwritten,
                                    shared: self.shared(&owners, phys),
                                },
                            };
                            assert_eq!(extent.state, expected, "block {block}");
                        }
                        rest = BlockRange::between(extent.range.end(), rest.end());
                    }
                    Ok(())
                })
                .unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agree_with_an_array_of_blocks(steps in prop::collection::vec(step(), 1..80), bits in 10u32..13) {
        let mut world = World::new(1 << bits);
        let blocks = world.meta.statfs().free;
        for step in steps {
            world.run(step);
            world.compare();
        }
        // The walk of a mount comes to the same number of free blocks as the account.
        world.run(Step::Commit);
        let report = crate::check::check(Arc::clone(&world.device) as _).unwrap();
        let past_end = |f: &&Finding| !matches!(f, Finding::WrittenPastEnd { .. });
        prop_assert_eq!(report.errors().find(past_end), None);
        let before = world.meta.statfs();
        world.meta = reopen(&world.device);
        world.compare();
        prop_assert_eq!(world.meta.statfs(), before);
        prop_assert_eq!(world.meta.space.account().reserved, 0);
        // And nothing is lost, but for leaves that are not quite empty enough to merge.
        for ino in world.inos {
            world.meta.punch(ino, BlockRange::ALL).unwrap();
        }
        world.meta.commit().unwrap();
        prop_assert!(world.meta.statfs().free + 4 >= blocks);
    }
}

fn one_file(blocks: u64) -> (Arc<MemoryDevice>, Meta, Ino) {
    let (device, meta) = new_fs(4096, blocks);
    let ino = meta
        .update(Purpose::Normal, |txn| txn.create(Ino::ROOT, b"f", &file()))
        .unwrap()
        .0;
    (device, meta, ino)
}

fn fill(meta: &Meta, ino: Ino) -> u64 {
    let mut at = FileBlock::ZERO;
    loop {
        let reservation = match meta.reserve(1) {
            Ok(reservation) => reservation,
            Err(FsError::NoSpace) => return at.get(),
            Err(error) => panic!("{error}"),
        };
        let range = BlockRange::at(at, 1);
        meta.update(Purpose::Must, |txn| {
            txn.allocate_extent(ino, range, true, None, &reservation)
        })
        .unwrap();
        // Every second block: as many extents as there can be.
        at = at.plus(2);
    }
}

#[test]
fn a_full_file_system_can_be_emptied_and_filled_again() {
    let (device, meta, ino) = one_file(2048);
    let first = fill(&meta, ino);
    assert!(first / 2 > 1000, "only {first}");
    assert!(matches!(meta.reserve(1), Err(FsError::NoSpace)));
    for n in 0..first / 2 {
        meta.update(Purpose::Must, |txn| {
            txn.convert_unwritten(ino, BlockRange::at(FileBlock::new(2 * n), 1))
        })
        .unwrap();
    }
    meta.commit().unwrap();
    meta.truncate(ino, 0, |_| {}).unwrap();
    meta.punch(ino, BlockRange::ALL).unwrap();
    let again = fill(&meta, ino);
    assert!(again.abs_diff(first) < 16, "{first} then {again}");
    let removed = meta
        .update(Purpose::Must, |txn| txn.unlink(Ino::ROOT, b"f", at(2)))
        .unwrap();
    meta.evict(removed.ino).unwrap();
    meta.commit().unwrap();
    let meta = reopen(&device);
    assert_eq!(meta.statfs().inodes, 1);
    let ino = meta
        .update(Purpose::Normal, |txn| txn.create(Ino::ROOT, b"f", &file()))
        .unwrap()
        .0;
    assert!(fill(&meta, ino).abs_diff(first) < 16);
}

#[test]
fn a_reservation_is_kept_for_its_owner() {
    let (_, meta, ino) = one_file(1024);
    let available = meta.statfs().available;
    let mut reservation = meta.reserve(available / 2).unwrap();
    assert!(meta.reserve(available / 2 + 1).is_err());
    fill(&meta, ino);
    // Nothing is left for others, but what was promised is there.
    let range = BlockRange::at(FileBlock::new(1 << 20), reservation.blocks());
    let mut rest = range;
    while !rest.is_empty() {
        let extent = meta
            .update(Purpose::Must, |txn| {
                txn.allocate_extent(ino, rest, true, None, &reservation)
            })
            .unwrap();
        rest = BlockRange::between(extent.range.end(), rest.end());
    }
    assert_eq!(reservation.blocks(), 0);
    assert_eq!(reservation.split(5).blocks(), 0);
}

#[test]
fn dropping_guards_gives_everything_back() {
    let (_, meta, ino) = one_file(1024);
    meta.commit().unwrap();
    let before = meta.statfs();
    let mut reservation = meta.reserve(100).unwrap();
    let other = reservation.split(30);
    let grant = meta
        .update(Purpose::Must, |txn| txn.allocate(None, 20, &reservation))
        .unwrap();
    assert_eq!((reservation.blocks(), other.blocks()), (50, 30));
    let failed = meta.update(Purpose::Must, |txn| {
        txn.allocate_extent(ino, BlockRange::ALL, true, None, &reservation)?;
        Err::<(), _>(FsError::Interrupted)
    });
    assert!(failed.is_err());
    assert_eq!(reservation.blocks(), 50, "a failed transaction gives back");
    reservation.merge(other);
    assert_eq!(reservation.blocks(), 80);
    drop((reservation, grant));
    meta.commit().unwrap();
    assert_eq!(meta.statfs(), before);
}

#[test]
fn a_grant_that_becomes_part_of_a_file_stays() {
    let (device, meta, ino) = one_file(1024);
    let reservation = meta.reserve(10).unwrap();
    let grant = meta
        .update(Purpose::Must, |txn| txn.allocate(None, 10, &reservation))
        .unwrap();
    let run = grant.run();
    meta.update(Purpose::Must, |txn| {
        txn.remap(ino, FileBlock::new(3), grant)
    })
    .unwrap();
    meta.commit().unwrap();
    let meta = reopen(&device);
    let extents = meta
        .read(|view| view.extents(ino, BlockRange::ALL, 10))
        .unwrap();
    assert_eq!(extents.len(), 1);
    assert_eq!(
        extents[0].state,
        ExtentState::Mapped {
            start: run.start,
            unwritten: false,
            shared: false
        }
    );
}

#[test]
fn an_interrupted_truncate_is_finished_by_the_next_mount() {
    let (device, meta, ino) = one_file(1024);
    let reservation = meta.reserve(10).unwrap();
    meta.update(Purpose::Must, |txn| {
        txn.allocate_extent(
            ino,
            BlockRange::at(FileBlock::ZERO, 10),
            false,
            None,
            &reservation,
        )?;
        txn.set_size(ino, 10 * 4096)
    })
    .unwrap();
    let cuts = meta
        .update(Purpose::Must, |txn| txn.set_size(ino, 4097))
        .unwrap();
    assert!(cuts);
    meta.commit().unwrap();
    drop(meta);
    let meta = reopen(&device);
    assert_eq!(meta.orphans().unwrap(), []);
    let inode = meta.read(|view| view.inode(ino)).unwrap();
    assert_eq!((inode.size, inode.blocks), (4097, 2));
}

#[test]
fn inline_data_moves_out_whole() {
    let (device, meta) = new_fs(4096, 1024);
    let new = crate::meta::inode::NewInode {
        inline: true,
        ..file()
    };
    let ino = meta
        .update(Purpose::Normal, |txn| {
            let (ino, mut inode) = txn.create(Ino::ROOT, b"f", &new)?;
            inode.body = Body::Inline(b"hello".to_vec());
            inode.size = 5;
            txn.put_inode(ino, &inode)?;
            Ok(ino)
        })
        .unwrap();
    meta.commit().unwrap();
    let meta = reopen(&device);
    let body = meta.read(|view| view.inode(ino)).unwrap().body;
    assert_eq!(body, Body::Inline(b"hello".to_vec()));
    meta.spill_inline(ino).unwrap();
    meta.commit().unwrap();
    let meta = reopen(&device);
    let inode = meta.read(|view| view.inode(ino)).unwrap();
    assert_eq!(
        (inode.size, inode.blocks, inode.body),
        (5, 1, Body::Extents)
    );
    let extent = meta
        .read(|view| view.extent_at(ino, BlockRange::ALL))
        .unwrap();
    let ExtentState::Mapped { start, .. } = extent.state else {
        panic!("no block");
    };
    let addr = meta.block_addr(start).bytes() as usize;
    assert_eq!(&device.image()[addr..addr + 8], b"hello\0\0\0");
}

/// Files with as many extents as fit, every other one shared with a second file.
fn fill_with_clones(meta: &Meta) -> u32 {
    let mut files = 0;
    loop {
        let (a, b) = (format!("a{files}"), format!("b{files}"));
        let made = meta.update(Purpose::Normal, |txn| {
            let a = txn.create(Ino::ROOT, a.as_bytes(), &file())?.0;
            Ok((a, txn.create(Ino::ROOT, b.as_bytes(), &file())?.0))
        });
        let Ok((a, b)) = made else {
            return files;
        };
        files += 1;
        for n in 0..12 {
            let Ok(reservation) = meta.reserve(1) else {
                break;
            };
            let range = BlockRange::at(FileBlock::new(2 * n), 1);
            meta.update(Purpose::Must, |txn| {
                txn.allocate_extent(a, range, true, None, &reservation)?;
                txn.convert_unwritten(a, range)
            })
            .unwrap();
            if n % 2 == 0 {
                let to = FileBlock::new(100 - n);
                let _ = meta.update(Purpose::Normal, |txn| txn.clone_range(a, range, b, to));
            }
        }
    }
}

#[test]
fn everything_can_be_deleted_from_a_full_file_system_of_any_size() {
    for (block_size, blocks) in [
        (1024, 128),
        (4096, 128),
        (1024, 256),
        (65536, 200),
        (1024, 4000),
    ] {
        for last_first in [false, true] {
            let (device, meta) = new_fs(block_size, blocks);
            let empty = meta.statfs().free;
            let files = fill_with_clones(&meta);
            assert!(files >= 2, "{block_size} {blocks}: {files}");
            let mut names: Vec<_> = (0..files)
                .flat_map(|n| [format!("a{n}"), format!("b{n}")])
                .collect();
            if last_first {
                names.reverse();
            }
            for name in names {
                let removed = meta
                    .update(Purpose::Must, |t| {
                        t.unlink(Ino::ROOT, name.as_bytes(), at(2))
                    })
                    .unwrap();
                meta.evict(removed.ino).unwrap();
            }
            meta.commit().unwrap();
            crate::meta::testing::assert_clean(&device);
            assert_eq!(meta.statfs().inodes, 1);
            assert!(meta.statfs().free + 4 >= empty);
        }
    }
}

#[test]
fn no_step_of_a_deletion_grows_without_bound() {
    let (_, meta) = new_fs(1024, 8192);
    let (a, b) = meta
        .update(Purpose::Normal, |txn| {
            let a = txn.create(Ino::ROOT, b"a", &file())?.0;
            Ok((a, txn.create(Ino::ROOT, b"b", &file())?.0))
        })
        .unwrap();
    let reservation = meta.reserve(2000).unwrap();
    for n in 0..2000 {
        let range = BlockRange::at(FileBlock::new(2 * (n * 719 % 2000)), 1);
        meta.update(Purpose::Must, |txn| {
            txn.allocate_extent(a, range, false, None, &reservation)?;
            if n % 3 == 0 {
                txn.clone_range(a, range, b, range.start())?;
            }
            Ok(())
        })
        .unwrap();
    }
    let (mut left, mut steps) = (Some(BlockRange::ALL), 0);
    while let Some(range) = left {
        meta.commit().unwrap();
        left = meta
            .update(Purpose::Must, |txn| txn.punch_step(a, range))
            .unwrap();
        let dirtied = meta.space.account().dirty;
        assert!(dirtied <= meta.space.limits.txn_nodes, "{dirtied}");
        steps += 1;
    }
    assert!(steps > 5, "{steps}");
}

#[test]
fn a_panic_inside_a_transaction_undoes_it() {
    let (_, meta, ino) = one_file(1024);
    meta.commit().unwrap();
    let before = meta.statfs();
    let reservation = meta.reserve(10).unwrap();
    let panics = std::panic::AssertUnwindSafe(|| {
        meta.update(Purpose::Must, |txn| {
            let range = BlockRange::at(FileBlock::ZERO, 10);
            txn.allocate_extent(ino, range, true, None, &reservation)?;
            panic!("a bug of the caller");
            #[expect(unreachable_code, reason = "gives the closure its type")]
            Ok(())
        })
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!(reservation.blocks(), 10);
    drop(reservation);
    assert_eq!(meta.statfs(), before);
    let inode = meta.read(|view| view.inode(ino)).unwrap();
    assert_eq!(inode.blocks, 0);
}
