//! A power cut at every moment, and a device that fails at every request.
//!
//! The fault model is that of [`device`](crate::device): what no flush covers may be lost, arrive, or
//! arrive in part, in any order. After each cut the file system must mount, be clean, and be as it was
//! at the last commit or some later moment: never something in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use iomap_core::device::{BioOp, BlockDevice, Limits, MemoryDevice};
use iomap_core::error::{DeviceOp, Errno, FsError};
use iomap_core::sync::atomic::{AtomicBool, Ordering};

use super::testing::{assert_clean, at, directory, file, options};
use super::tree::Walk;
use super::xattr::SetMode;
use super::{Durable, Meta, OpenOptions, Purpose};
use crate::device::{DeferredDevice, Fault, FaultyDevice, RecordingDevice, When};
use crate::format::item::{BadItem, ExtentItem, FileType};
use crate::format::superblock::{SLOT_ADDRS, SLOT_BYTES};
use crate::format::{BlockRange, FileBlock, Ino, Key, Kind};
use crate::meta::dir::RenameMode;
use crate::meta::extents::ExtentState;

type Contents = BTreeMap<Key, Vec<u8>>;

fn contents(meta: &Meta) -> Contents {
    let mut found = Contents::new();
    meta.read(|view| {
        let bytes = |value: &[u8]| Ok::<_, BadItem>(value.to_vec());
        view.walk(Key::MIN, Key::MAX, bytes, |key, value| {
            found.insert(key, value);
            Ok(Walk::On)
        })
    })
    .unwrap();
    // And what is in the blocks of files.
    for (key, value) in &mut found {
        if key.kind == Kind::Extent {
            let item = ExtentItem::decode(value).unwrap();
            let mut data = vec![0; item.run.len as usize * meta.geometry().block_size()];
            let addr = meta.block_addr(item.run.start);
            meta.device().read_at(addr, &mut data).unwrap();
            if !item.unwritten {
                value.extend_from_slice(&crc32c::crc32c(&data).to_le_bytes());
            }
        }
    }
    found
}

/// Asserts that two trees are the same, and names the keys where they are not.
fn same(a: &Contents, b: &Contents) {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differ: Vec<_> = keys.into_iter().filter(|k| a.get(k) != b.get(k)).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

/// Mounts without finishing what is pending.
fn as_it_is(device: &Arc<MemoryDevice>) -> Meta {
    let options = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    Meta::open(Arc::clone(device) as _, options).unwrap()
}

fn cached(size: u64, fua: bool) -> MemoryDevice {
    let limits = Limits {
        volatile_cache: true,
        fua,
        ..Limits::PLAIN
    };
    MemoryDevice::with_limits(size, limits)
}

/// Something a user might do, drawn from `rng`. Refusals are part of life; other errors are given
/// back.
fn act(meta: &Meta, rng: &mut Rng) -> Result<(), FsError> {
    let result = act_somehow(meta, rng);
    match result {
        Err(FsError::Os { .. } | FsError::NoSpace | FsError::Invalid(_)) => Ok(()),
        other => other,
    }
}

fn act_somehow(meta: &Meta, rng: &mut Rng) -> Result<(), FsError> {
    let mut entries = Vec::new();
    meta.read(|view| {
        view.readdir(Ino::ROOT, 2, |entry| {
            entries.push(entry);
            true
        })
    })?;
    let name = |rng: &mut Rng| format!("name {}", rng.u8(..24)).into_bytes();
    let new_name = name(rng);
    let now = at(i64::from(rng.u32(..)));
    let picked = rng.choice(&entries).cloned();
    let Some(picked) = picked else {
        return meta
            .update(Purpose::Normal, |txn| {
                txn.create(Ino::ROOT, &new_name, &file())
            })
            .map(drop);
    };
    let ino = picked.ino;
    let range = BlockRange::at(FileBlock::new(rng.u64(..40)), rng.u64(1..12));
    match rng.u8(..15) {
        12 => meta
            .update(Purpose::Normal, |txn| {
                txn.link(ino, Ino::ROOT, &new_name, now)
            })
            .map(drop),
        13 => meta
            .update(Purpose::Normal, |txn| {
                let target = vec![b't'; rng.usize(1..700)];
                txn.symlink(Ino::ROOT, &new_name, &target, &file())
            })
            .map(drop),
        14 => {
            let other = rng.choice(&entries).cloned().unwrap_or(picked.clone());
            let renamed = meta.update(Purpose::Normal, |txn| {
                let from = (Ino::ROOT, &picked.name[..]);
                match rng.bool() {
                    true => txn.rename(from, (Ino::ROOT, &other.name), RenameMode::Exchange, now),
                    false => txn.rename(from, (other.ino, &new_name), RenameMode::Replace, now),
                }
            })?;
            match renamed.replaced {
                Some(removed) if removed.inode.nlink == 0 => meta.evict(removed.ino),
                _ => Ok(()),
            }
        }
        0 | 1 => meta
            .update(Purpose::Normal, |txn| {
                txn.create(Ino::ROOT, &new_name, &file())
            })
            .map(drop),
        2 => meta
            .update(Purpose::Normal, |txn| {
                txn.create(Ino::ROOT, &new_name, &directory())
            })
            .map(drop),
        3 => {
            let removed = meta.update(Purpose::Must, |txn| {
                txn.unlink(Ino::ROOT, &picked.name, now)
                    .or_else(|_| txn.rmdir(Ino::ROOT, &picked.name, now))
            })?;
            meta.evict(removed.ino)
        }
        4 => meta
            .update(Purpose::Normal, |txn| {
                let from = (Ino::ROOT, &picked.name[..]);
                txn.rename(from, (Ino::ROOT, &new_name), RenameMode::Replace, now)
            })
            .map(drop),
        5 => meta.update(Purpose::Normal, |txn| {
            let value = vec![rng.u8(..); rng.usize(..3000)];
            txn.set_xattr(ino, &new_name, &value, SetMode::Any, now)
        }),
        6..=8 => {
            let reservation = meta.reserve(range.len())?;
            meta.update(Purpose::Must, |txn| {
                if txn.view().inode(ino)?.file_type() != FileType::Regular {
                    return Err(FsError::Invalid("no file"));
                }
                let extent = txn.allocate_extent(ino, range, true, None, &reservation)?;
                if let ExtentState::Mapped { start, .. } = extent.state {
                    let len = extent.range.len() as usize * txn.geometry().block_size();
                    let data: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
                    meta.device().write_at(meta.block_addr(start), &data)?;
                }
                txn.convert_unwritten(ino, extent.range)?;
                let end = extent.range.end().get() << txn.geometry().bits();
                txn.update_inode(ino, |inode| {
                    inode.size = inode.size.max(end);
                    Ok(())
                })
                .map(drop)
            })
        }
        9 => {
            let size = rng.u64(..40_000);
            meta.truncate(ino, size, |inode| inode.mtime = now)
        }
        10 => meta.punch(ino, range),
        _ => {
            let target = rng.choice(&entries).map_or(ino, |e| e.ino);
            meta.punch(target, range)?;
            meta.update(Purpose::Normal, |txn| {
                if txn.view().inode(target)?.file_type() != FileType::Regular {
                    return Err(FsError::Invalid("no file"));
                }
                txn.clone_range(ino, range, target, range.start())?;
                let end = range.end().get() << txn.geometry().bits();
                txn.update_inode(target, |inode| {
                    inode.size = inode.size.max(end);
                    Ok(())
                })
                .map(drop)
            })
        }
    }
}

/// Cuts the power of a random run at every event. `exact`: compare what is there after each.
fn cut_everywhere(seed: u64, blocks: u64, fua: bool, exact: bool) {
    let size = blocks * 1024;
    let base = Arc::new(cached(size, fua));
    Meta::mkfs(Arc::clone(&base) as _, &options(1024)).unwrap();
    let device = Arc::new(RecordingDevice::new(base).unwrap());
    let meta = Meta::open(Arc::clone(&device) as _, OpenOptions::default()).unwrap();
    let mut rng = Rng::with_seed(seed);
    let mut history = vec![contents(&meta)];
    for _ in 0..60 {
        act(&meta, &mut rng).unwrap();
        history.push(contents(&meta));
        if rng.u8(..5) == 0 {
            meta.commit().unwrap();
            device.mark(history.len() as u64 - 1);
        }
    }
    let recording = device.recording();
    for point in 0..=recording.end() {
        let durable = recording.marks(point).last().copied().unwrap_or(0) as usize;
        let mut fates = vec![Vec::new(), recording.fates(point, seed)];
        fates.extend((0..3).map(|n| recording.fates(point, n)));
        // The last write torn at every sector, all before it there.
        let torn: Vec<_> = recording.torn_prefixes(point).collect();
        fates.extend(torn.into_iter().rev().take(10));
        for fates in fates {
            let image = recording.image_with(point, &fates);
            let device = Arc::new(MemoryDevice::from_image(&image));
            assert_clean(&device);
            let meta = as_it_is(&device);
            let now = contents(&meta);
            assert!(
                !exact || history[durable..].contains(&now),
                "point {point}: neither the last commit nor anything later"
            );
            let meta = Meta::open(Arc::clone(&device) as _, OpenOptions::default()).unwrap();
            assert_eq!(meta.orphans().unwrap(), []);
            act(&meta, &mut Rng::with_seed(point as u64)).unwrap();
            meta.commit().unwrap();
            assert_clean(&device);
        }
    }
}

#[test]
fn a_power_cut_leaves_the_last_commit_or_something_later() {
    for seed in 0..4 {
        cut_everywhere(seed, 2048, seed % 2 == 0, true);
    }
}

#[test]
fn a_power_cut_on_a_nearly_full_device_leaves_it_clean() {
    for seed in 0..4 {
        cut_everywhere(seed, 220, seed % 2 == 1, false);
    }
}

#[test]
fn a_commit_that_failed_anywhere_can_be_repeated() {
    for (op, effect) in [
        (DeviceOp::Write, crate::device::Effect::Nothing),
        (DeviceOp::Write, crate::device::Effect::Half),
        (DeviceOp::Write, crate::device::Effect::All),
        (DeviceOp::Flush, crate::device::Effect::Nothing),
    ] {
        for nth in 0..12 {
            let base = Arc::new(cached(1024 * 1024, false));
            Meta::mkfs(Arc::clone(&base) as _, &options(1024)).unwrap();
            let device = Arc::new(FaultyDevice::new(Arc::clone(&base), 1));
            let meta = Meta::open(Arc::clone(&device) as _, OpenOptions::default()).unwrap();
            let fault = Fault::new(Errno::IO).on(op).when(When::Nth(nth));
            device.plan(fault.leaving(effect));
            let mut rng = Rng::with_seed(nth);
            let mut failed = false;
            let mut last_good = contents(&meta);
            for _ in 0..6 {
                for _ in 0..6 {
                    let result = act(&meta, &mut rng);
                    assert!(result.is_ok() || !failed, "{result:?}");
                }
                match meta.commit() {
                    Ok(_) => {
                        assert_clean(&base);
                        last_good = contents(&meta);
                    }
                    Err(error) => {
                        assert_eq!(error.errno(), Errno::IO);
                        assert!(!failed, "one failure was planned");
                        failed = true;
                        // What is on the device still is the last good one, or the new one whole.
                        assert_clean(&base);
                        let old = as_it_is(&base);
                        let found = contents(&old);
                        assert!(found == last_good || found == contents(&meta));
                    }
                }
            }
            meta.commit().unwrap();
            assert_clean(&base);
            let again = as_it_is(&base);
            same(&contents(&again), &contents(&meta));
            assert_eq!(again.statfs(), meta.statfs());
        }
    }
}

#[test]
fn threads_that_commit_at_once_lose_nothing() {
    let base = Arc::new(cached(8 << 20, false));
    Meta::mkfs(Arc::clone(&base) as _, &options(4096)).unwrap();
    let device = Arc::new(RecordingDevice::new(Arc::clone(&base)).unwrap());
    let meta = Arc::new(Meta::open(Arc::clone(&device) as _, OpenOptions::default()).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let meta = Arc::clone(&meta);
            iomap_core::sync::thread::spawn(move || {
                for n in 0..40 {
                    let name = format!("{thread} {n}");
                    let generation = meta
                        .update(Purpose::Normal, |txn| {
                            txn.create(Ino::ROOT, name.as_bytes(), &file())?;
                            Ok(txn.generation())
                        })
                        .unwrap();
                    meta.commit_through(generation).unwrap();
                    assert!(meta.durable_generation() >= generation);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let end = device.recording();
    let image = end.durable_image(end.end());
    let device = Arc::new(MemoryDevice::from_image(&image));
    assert_clean(&device);
    let again = Meta::open(device as _, OpenOptions::default()).unwrap();
    same(&contents(&again), &contents(&meta));
    assert_eq!(again.statfs().inodes, 161);
    assert!(base.size() > 0);
}

#[test]
fn a_superblock_write_that_tears_inside_a_sector_costs_that_commit_only() {
    let device = Arc::new(cached(2 << 20, true));
    let meta = Meta::mkfs(Arc::clone(&device) as _, &options(1024)).unwrap();
    let mut rng = Rng::with_seed(3);
    for _ in 0..8 {
        let before = (device.image(), contents(&meta));
        while !meta.state.read().changed {
            act(&meta, &mut rng).unwrap();
        }
        meta.commit().unwrap();
        let after = device.image();
        let mut written = SLOT_ADDRS
            .map(|addr| addr as usize)
            .into_iter()
            .filter(|at| before.0[*at..*at + SLOT_BYTES] != after[*at..*at + SLOT_BYTES]);
        let (slot, None) = (written.next().unwrap(), written.next()) else {
            panic!("a commit wrote both slots");
        };
        let mut torn = after.clone();
        torn[slot + 100..slot + 200].fill(0xa5);
        let torn = Arc::new(MemoryDevice::from_image(&torn));
        same(&contents(&as_it_is(&torn)), &before.1);
        let report = crate::check::check(torn as _).unwrap();
        assert!(report.is_clean());
        assert_eq!(report.findings.len(), 1, "the slot is noted");
    }
}

#[test]
fn whoever_comes_while_a_commit_runs_shares_the_next_one() {
    let base = Arc::new(cached(8 << 20, true));
    Meta::mkfs(Arc::clone(&base) as _, &options(4096)).unwrap();
    let slow = Arc::new(AtomicBool::new(true));
    let hold = Arc::clone(&slow);
    let device = DeferredDevice::manual(base)
        .holding(move |held| held.op == BioOp::Flush && hold.load(Ordering::Acquire));
    let device = Arc::new(device);
    let meta = Arc::new(Meta::open(Arc::clone(&device) as _, OpenOptions::default()).unwrap());
    let create = |name: &[u8]| {
        meta.update(Purpose::Normal, |txn| {
            txn.create(Ino::ROOT, name, &file())?;
            Ok(txn.generation())
        })
        .unwrap()
    };
    let commit = |generation| {
        let meta = Arc::clone(&meta);
        iomap_core::sync::thread::spawn(move || meta.commit_through(generation).unwrap())
    };
    let first = create(b"first");
    let leader = commit(first);
    device.wait_held(1);
    let late = commit(first);
    device.complete_all();
    assert_eq!(leader.join().unwrap(), Durable::Flushed);
    // Its generation became durable by a flush that may have begun before the call.
    assert_eq!(late.join().unwrap(), Durable::Already);

    let second = create(b"second");
    let leader = commit(second);
    device.wait_held(1);
    // The commit is at its flush: changes go on, for the next one.
    let next = [create(b"third"), create(b"fourth")];
    assert_eq!(next, [second + 1; 2]);
    let waiters = next.map(commit);
    assert_eq!(meta.durable_generation(), first);
    slow.store(false, Ordering::Release);
    device.complete_all();
    assert_eq!(leader.join().unwrap(), Durable::Flushed);
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_eq!(meta.durable_generation(), second + 1, "one commit for both");
}
