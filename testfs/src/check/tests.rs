//! Every kind of damage is found; nothing is found where there is none; no bytes make it panic.

use std::sync::Arc;

use iomap_core::device::{MemoryDevice, bytes};
use iomap_core::units::DevAddr;
use proptest::prelude::*;

use super::{Finding, Report, Severity, check};
use crate::format::item::{Body, Dirent, ExtentItem, FileType, OrphanItem, RefcountItem};
use crate::format::superblock::SLOT_ADDRS;
use crate::format::{BlockRange, DiskBlock, DiskRun, FileBlock, Ino, Key, Kind, Superblock};
use crate::meta::dir::RenameMode;
use crate::meta::testing::{at, directory, file, new_fs};
use crate::meta::tree::Walk;
use crate::meta::xattr::SetMode;
use crate::meta::{Meta, OpenOptions, Purpose, Txn};

/// A file system with one of everything.
struct Sample {
    device: Arc<MemoryDevice>,
    meta: Meta,
    dir: Ino,
    file: Ino,
    clone: Ino,
    link: Ino,
}

fn change<T>(meta: &Meta, f: impl FnOnce(&mut Txn<'_>) -> iomap_core::error::Result<T>) -> T {
    meta.update(Purpose::Must, f).unwrap()
}

fn sample(block_size: u32) -> Sample {
    let (device, meta) = new_fs(block_size, 1024);
    let reservation = meta.reserve(20).unwrap();
    let size = u64::from(block_size);
    let sample = change(&meta, |txn| {
        let dir = txn.create(Ino::ROOT, b"dir", &directory())?.0;
        let inner = txn.create(dir, b"inner", &directory())?.0;
        let file_ = txn.create(dir, b"file", &file())?.0;
        let clone = txn.create(inner, b"clone", &file())?.0;
        let link = txn.symlink(Ino::ROOT, b"link", &[b'x'; 600], &file())?.0;
        for n in 0..40 {
            txn.create(inner, format!("name {n}").as_bytes(), &file())?;
        }
        let blocks = BlockRange::at(FileBlock::new(2), 8);
        txn.allocate_extent(file_, blocks, false, None, &reservation)?;
        let more = BlockRange::at(FileBlock::new(12), 4);
        txn.allocate_extent(file_, more, true, None, &reservation)?;
        txn.set_size(file_, 10 * size)?;
        let part = BlockRange::at(FileBlock::new(4), 4);
        txn.clone_range(file_, part, clone, FileBlock::ZERO)?;
        txn.set_size(clone, 4 * size - 1)?;
        txn.set_xattr(file_, b"user.short", b"value", SetMode::Any, at(3))?;
        txn.set_xattr(file_, b"user.long", &[7; 10_000], SetMode::Any, at(3))?;
        Ok((dir, file_, clone, link))
    });
    meta.commit().unwrap();
    let (dir, file, clone, link) = sample;
    Sample {
        device,
        meta,
        dir,
        file,
        clone,
        link,
    }
}

impl Sample {
    fn check(&self) -> Report {
        self.meta.commit().unwrap();
        check(Arc::clone(&self.device) as _).unwrap()
    }

    /// What a check says after `f`: exactly one error, unless the damage has several faces.
    fn damaged(
        self,
        f: impl FnOnce(&mut Txn<'_>) -> iomap_core::error::Result<()>,
    ) -> Vec<Finding> {
        change(&self.meta, f);
        let report = self.check();
        assert!(!report.is_clean());
        report.findings
    }
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for block_size in [1024, 4096, 65536] {
        let sample = sample(block_size);
        let report = sample.check();
        assert_eq!(report.findings, []);
        assert_eq!(report.census.directories, 3);
        assert_eq!(report.census.shared_blocks, 4);
        assert_eq!(report.census.inodes, sample.meta.statfs().inodes);
        let free = sample.meta.statfs().free;
        assert_eq!(report.census.used_blocks, 1024 - free);
    }
}

#[test]
fn an_orphan_is_a_note() {
    let sample = sample(4096);
    change(&sample.meta, |txn| txn.unlink(sample.dir, b"file", at(2)));
    let report = sample.check();
    assert!(report.is_clean());
    let ino = sample.file;
    assert_eq!(report.findings, [Finding::PendingOrphan { ino }]);
}

#[test]
fn an_extent_that_overlaps_or_leaves_the_device_is_found() {
    let s = sample(4096);
    let ino = s.file;
    let item = |start, len| ExtentItem {
        run: DiskRun::new(DiskBlock::new(start), len),
        unwritten: false,
    };
    let key = Key::extent(ino, FileBlock::new(3));
    let found = s.damaged(|t| t.insert(key, &item(300, 1).encode()));
    let at = FileBlock::new(3);
    assert!(
        found.contains(&Finding::ExtentOverlap { ino, at }),
        "{found:?}"
    );
    let s = sample(4096);
    let key = Key::extent(ino, FileBlock::ZERO);
    let found = s.damaged(|t| t.insert(key, &item(1023, 2).encode()));
    assert!(
        found
            .iter()
            .any(|f| matches!(f, Finding::OutOfRange { .. })),
        "{found:?}"
    );
}

#[test]
fn blocks_with_two_owners_and_no_count_are_found_and_the_reverse() {
    let s = sample(4096);
    let key = s
        .meta
        .read(|v| {
            v.first(
                Key::refcount(DiskBlock::new(0)),
                Key::refcount(DiskBlock::new(1024)),
                RefcountItem::decode,
            )
        })
        .unwrap()
        .unwrap()
        .0;
    let found = s.damaged(|t| t.remove_known(&key));
    let run = DiskRun::new(DiskBlock::new(key.offset), 4);
    let expected = Finding::Refcount {
        run,
        stored: 1,
        counted: 2,
    };
    assert_eq!(found, [expected]);
    let s = sample(4096);
    let item = RefcountItem { len: 1, count: 3 };
    let found = s.damaged(|t| t.insert(key, &item.encode()));
    assert!(
        found.iter().any(|f| matches!(
            f,
            Finding::Refcount {
                stored: 3,
                counted: 2,
                ..
            }
        )),
        "{found:?}"
    );
}

#[test]
fn a_file_in_the_blocks_of_the_tree_is_found() {
    let s = sample(4096);
    let key = Key::extent(s.clone, FileBlock::new(100));
    let run = DiskRun::new(DiskBlock::new(16), 1);
    let item = ExtentItem {
        run,
        unwritten: true,
    };
    let found = s.damaged(|t| t.insert(key, &item.encode()));
    assert!(found.contains(&Finding::UsedTwice { run }), "{found:?}");
}

#[test]
fn wrong_counts_of_an_inode_are_found() {
    let s = sample(4096);
    let (file, dir, link) = (s.file, s.dir, s.link);
    let found = s.damaged(|t| {
        t.update_inode(file, |i| {
            i.nlink += 1;
            i.blocks += 1;
            Ok(())
        })?;
        t.update_inode(dir, |i| {
            i.nlink += 1;
            i.entries += 1;
            i.parent = Ino::new(77);
            Ok(())
        })?;
        t.update_inode(link, |i| {
            i.size += 1;
            Ok(())
        })?;
        Ok(())
    });
    let counts = |ino| {
        found
            .iter()
            .filter(|f| matches!(f, Finding::InodeCount { ino: i, .. } if *i == ino))
            .count()
    };
    assert_eq!((counts(file), counts(dir), counts(link)), (2, 2, 1));
    assert!(found.iter().any(|f| matches!(f, Finding::Parent { .. })));
}

#[test]
fn written_data_past_the_end_is_found() {
    let s = sample(4096);
    let ino = s.file;
    let found = s.damaged(|t| {
        t.update_inode(ino, |i| {
            i.size = 5 * 4096;
            Ok(())
        })?;
        Ok(())
    });
    let at = FileBlock::new(5);
    assert_eq!(found, [Finding::WrittenPastEnd { ino, at }]);
}

#[test]
fn names_of_nothing_and_inodes_without_names_are_found() {
    let s = sample(4096);
    let (file, dir) = (s.file, s.dir);
    let found = s.damaged(|t| t.remove_known(&Key::inode(file)));
    assert!(
        found
            .iter()
            .any(|f| matches!(f, Finding::Dangling { ino, .. } if *ino == file))
    );
    assert!(found.iter().any(|f| matches!(f, Finding::Misfit { .. })));
    let s = sample(4096);
    let found = s.damaged(|t| {
        let key = t.view().entry(dir, b"file")?.unwrap().0;
        t.remove_known(&key)
    });
    assert!(
        found
            .iter()
            .any(|f| matches!(f, Finding::InodeCount { ino, .. } if *ino == file))
    );
}

#[test]
fn an_entry_in_the_wrong_place_or_of_the_wrong_type_is_found() {
    let s = sample(4096);
    let (file, dir) = (s.file, s.dir);
    let entry = Dirent {
        ino: file,
        file_type: FileType::Fifo,
        name: b"second".to_vec(),
    };
    let found = s.damaged(|t| t.insert(Key::new(dir, Kind::Dirent, 1 << 40), &entry.encode()));
    assert!(found.iter().any(|f| matches!(f, Finding::EntryType { .. })));
    assert!(found.iter().any(|f| matches!(f, Finding::Misfit { .. })));
}

#[test]
fn directories_in_a_loop_are_found() {
    let s = sample(4096);
    let dir = s.dir;
    let found = s.damaged(|t| {
        let (key, entry) = t.view().entry(Ino::ROOT, b"dir")?.unwrap();
        let inner = t.view().lookup(dir, b"inner")?.0;
        t.remove_known(&key)?;
        let loops = Dirent {
            name: b"loop".to_vec(),
            ..entry
        };
        let key = t.view().free_key(inner, b"loop")?;
        t.insert(key, &loops.encode())?;
        t.update_inode(Ino::ROOT, |i| {
            i.nlink -= 1;
            i.entries -= 1;
            Ok(())
        })?;
        t.update_inode(inner, |i| {
            i.nlink += 1;
            i.entries += 1;
            Ok(())
        })?;
        t.update_inode(dir, |i| {
            i.parent = inner;
            Ok(())
        })?;
        Ok(())
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .all(|f| matches!(f, Finding::Unreachable { .. }))
    );
}

#[test]
fn bad_orphans_attributes_and_targets_are_found() {
    let s = sample(4096);
    let (file, link) = (s.file, s.link);
    let found = s.damaged(|t| {
        t.insert(Key::orphan(file), &OrphanItem::Unlinked.encode())?;
        t.insert(Key::orphan(Ino::new(999)), &OrphanItem::Truncate.encode())?;
        t.insert(Key::new(file, Kind::Symlink, 0), b"target")?;
        t.insert(Key::new(link, Kind::Xattr, 5), b"piece")?;
        t.insert(Key::new(link, Kind::Xattr, 1 << 16), b"")
    });
    let orphans = found.iter().filter(|f| matches!(f, Finding::Orphan { .. }));
    assert_eq!(orphans.count(), 2);
    let misfits = found.iter().filter(|f| matches!(f, Finding::Misfit { .. }));
    assert_eq!(misfits.count(), 2);
    assert!(found.iter().any(|f| matches!(f, Finding::Item { .. })));
}

#[test]
fn wrong_numbers_in_the_superblock_are_found() {
    let s = sample(4096);
    let report = s.check();
    for addr in SLOT_ADDRS {
        let image = s.device.image();
        let mut sb = Superblock::decode(&image[addr as usize..]).unwrap();
        sb.inodes += 1;
        sb.used_blocks -= 1;
        sb.next_ino = Ino::new(3);
        bytes::write_bytes(&*s.device, DevAddr::new(addr), &sb.encode(), false).unwrap();
    }
    let bad = check(Arc::clone(&s.device) as _).unwrap();
    assert_eq!(bad.census, report.census);
    assert_eq!(bad.errors().count(), 3);
}

#[test]
fn a_damaged_slot_is_a_note_and_a_damaged_node_an_error() {
    let s = sample(4096);
    s.check();
    let image = s.device.image();
    let newest = SLOT_ADDRS
        .map(|addr| Superblock::decode(&image[addr as usize..]).unwrap())
        .into_iter()
        .max_by_key(|sb| sb.generation)
        .unwrap();
    let older = SLOT_ADDRS[(newest.generation % 2) as usize];
    bytes::write_bytes(&*s.device, DevAddr::new(older), &[1; 512], false).unwrap();
    let report = check(Arc::clone(&s.device) as _).unwrap();
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].severity(), Severity::Note);
    let root = DevAddr::new(newest.root.addr.get() * 4096 + 1024);
    bytes::write_bytes(&*s.device, root, &[1; 512], false).unwrap();
    let report = check(Arc::clone(&s.device) as _).unwrap();
    assert!(
        matches!(report.findings[1], Finding::Node { .. }),
        "{:?}",
        report.findings
    );
}

/// Opens, checks and walks whatever the image is now.
fn touch_everything(image: &[u8]) {
    let device = Arc::new(MemoryDevice::from_image(image));
    let _ = check(Arc::clone(&device) as _);
    let Ok(meta) = Meta::open(device as _, OpenOptions::default()) else {
        return;
    };
    let mut pending = vec![Ino::ROOT];
    let mut budget = 2000;
    while let Some(ino) = pending.pop()
        && budget > 0
    {
        budget -= 1;
        let _ = meta.read(|view| {
            let _ = view.inode(ino);
            let _ = view.readlink(ino);
            let _ = view.extents(ino, BlockRange::ALL, 1000);
            for name in view.xattr_names(ino).unwrap_or_default() {
                let _ = view.xattr(ino, &name);
            }
            view.readdir(ino, 2, |entry| {
                pending.push(entry.ino);
                pending.len() < 1000
            })
        });
        let _ = meta.update(Purpose::Normal, |txn| txn.create(ino, b"new", &file()));
        let _ = meta.update(Purpose::Normal, |txn| txn.unlink(ino, b"name 3", at(4)));
        let _ = meta.truncate(ino, 5000, |_| {});
        let _ = meta.update(Purpose::Normal, |txn| {
            txn.rename(
                (ino, b"name 4"),
                (Ino::ROOT, b"x"),
                RenameMode::Replace,
                at(5),
            )
        });
        let _ = meta.update(Purpose::Normal, |txn| {
            txn.rename((Ino::ROOT, b"dir"), (ino, b"y"), RenameMode::Replace, at(5))
        });
        let range = BlockRange::at(FileBlock::new(3), 6);
        let _ = meta.update(Purpose::Normal, |txn| {
            txn.clone_range(ino, range, Ino::new(4), FileBlock::new(40))
        });
        let _ = meta.update(Purpose::Must, |txn| {
            txn.convert_unwritten(ino, BlockRange::ALL)
        });
        let _ = meta.punch(ino, range);
        let _ = meta.update(Purpose::Normal, |txn| txn.link(ino, Ino::ROOT, b"z", at(5)));
        let _ = meta.update(Purpose::Normal, |txn| {
            txn.set_xattr(ino, b"user.long", &[1; 3000], SetMode::Any, at(5))
        });
    }
    let _ = meta.commit();
}

/// Puts right checksums on every node and superblock, so that damage reaches further in.
fn mend_checksums(image: &mut [u8], block_size: usize) {
    use crate::format::node;
    let mut crcs = std::collections::HashMap::new();
    // Parents repeat the checksums of children: mend bottom up, by level.
    for level in 0..4 {
        for n in 0..image.len() / block_size {
            let block = &mut image[n * block_size..(n + 1) * block_size];
            if block[..4] != node::MAGIC || block[24] != level {
                continue;
            }
            if level > 0 {
                let count = usize::from(u16::from_le_bytes([block[26], block[27]]));
                for e in 0..count {
                    let entry = node::HEADER_BYTES + e * node::ENTRY_BYTES;
                    let Some(bytes) = block.get_mut(entry..entry + node::ENTRY_BYTES) else {
                        break;
                    };
                    let addr = u64::from_le_bytes(std::array::from_fn(|i| bytes[17 + i]));
                    if let Some(crc) = crcs.get(&addr) {
                        bytes[33..37].copy_from_slice(&u32::to_le_bytes(*crc));
                    }
                }
            }
            let crc = node::checksum(block);
            block[4..8].copy_from_slice(&crc.to_le_bytes());
            crcs.insert(n as u64, crc);
        }
    }
    for addr in SLOT_ADDRS {
        let addr = addr as usize;
        if let Ok(mut sb) = Superblock::decode(&image[addr..]) {
            if let Some(crc) = crcs.get(&sb.root.addr.get()) {
                sb.root.crc = *crc;
            }
            let slot = sb.encode();
            image[addr..addr + slot.len()].copy_from_slice(&slot);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_bytes_make_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        mend in any::<bool>(),
    ) {
        thread_local! {
            static IMAGE: Vec<u8> = { let s = sample(1024); s.check(); s.device.image() };
        }
        let mut image = IMAGE.with(Clone::clone);
        // Where something is: nodes and superblocks.
        let interesting: Vec<usize> = (0..image.len()).filter(|n| image[*n] != 0).collect();
        for (at, byte) in flips {
            image[*at.get(&interesting)] = byte;
        }
        if mend {
            mend_checksums(&mut image, 1024);
        }
        touch_everything(&image);
    }

    #[test]
    fn no_cut_makes_it_panic(len in any::<prop::sample::Index>()) {
        let s = sample(1024);
        s.check();
        let image = s.device.image();
        let len = len.index(image.len()) / 512 * 512;
        touch_everything(&image[..len.max(512)]);
    }
}

type Damage = fn(&Sample, &mut Txn<'_>) -> iomap_core::error::Result<()>;

/// Each sentence the check has for an item or an inode, with what it is for.
const MISFITS: &[(&str, Damage)] = &[
    ("a size without data", |s, t| {
        t.update_inode(s.dir, |i| {
            i.size = 5;
            Ok(())
        })
        .map(|_| ())
    }),
    ("a parent, though it is no directory", |s, t| {
        t.update_inode(s.file, |i| {
            i.parent = Ino::ROOT;
            Ok(())
        })
        .map(|_| ())
    }),
    ("entries, though it is no directory", |s, t| {
        t.update_inode(s.file, |i| {
            i.entries = 1;
            Ok(())
        })
        .map(|_| ())
    }),
    ("inline data in no file", |s, t| {
        t.update_inode(s.dir, |i| {
            (i.size, i.body) = (1, Body::Inline(vec![1]));
            Ok(())
        })
        .map(|_| ())
    }),
    ("an extent, but no file with extents", |s, t| {
        let run = DiskRun::new(DiskBlock::new(1000), 1);
        let item = ExtentItem {
            run,
            unwritten: true,
        };
        t.insert(Key::extent(s.link, FileBlock::ZERO), &item.encode())
    }),
    ("past the largest file", |s, t| {
        let run = DiskRun::new(DiskBlock::new(1000), 1);
        let item = ExtentItem {
            run,
            unwritten: true,
        };
        t.insert(Key::extent(s.file, FileBlock::MAX), &item.encode())
    }),
    ("a second inode item", |s, t| {
        t.insert(Key::new(s.file, Kind::Inode, 1), b"anything")
    }),
    ("belongs to no inode", |_, t| {
        t.insert(Key::new(Ino::GLOBAL, Kind::Symlink, 0), b"x")
    }),
    ("an entry, but no directory", |s, t| {
        let entry = Dirent {
            ino: s.file,
            file_type: FileType::Regular,
            name: b"x".to_vec(),
        };
        t.insert(Key::new(s.file, Kind::Dirent, 16), &entry.encode())
    }),
    ("an empty piece", |s, t| {
        t.insert(Key::new(s.link, Kind::Symlink, 1000), b"")
    }),
    ("its value is cut short", |s, t| {
        let mut last = None;
        let (from, to) = (
            Key::new(s.file, Kind::Xattr, 0),
            Key::new(s.file, Kind::Xattr, u64::MAX),
        );
        t.view().walk(
            from,
            to,
            |_| Ok(()),
            |key, ()| {
                if !key.offset.is_multiple_of(1 << 16) {
                    last = Some(key);
                }
                Ok(Walk::On)
            },
        )?;
        t.remove_known(&last.unwrap())
    }),
    ("a directory with more than one name", |s, t| {
        t.update_inode(s.dir, |i| {
            i.nlink += 1;
            Ok(())
        })?;
        let entry = Dirent {
            ino: s.dir,
            file_type: FileType::Directory,
            name: b"again".to_vec(),
        };
        t.insert(Key::new(Ino::ROOT, Kind::Dirent, 16), &entry.encode())
    }),
    ("the root directory is missing", |_, t| {
        t.remove_known(&Key::inode(Ino::ROOT))
    }),
];

#[test]
fn every_item_and_inode_that_does_not_fit_is_named() {
    for (what, damage) in MISFITS {
        let s = sample(4096);
        change(&s.meta, |t| damage(&s, t));
        let report = s.check();
        let named = report.errors().any(|finding| match finding {
            Finding::Misfit { what: found, .. } | Finding::Inode { what: found, .. } => {
                found == what
            }
            _ => false,
        });
        assert!(named, "{what}: {:?}", report.findings);
    }
}

#[test]
fn names_that_are_there_twice_and_inodes_nobody_can_reach_are_found() {
    let s = sample(4096);
    let (dir, file, inner) = (s.dir, s.file, s.clone);
    let found = s.damaged(|t| {
        // The same name in the next place of its bucket.
        let mut twice = None;
        let (from, to) = (
            Key::new(dir, Kind::Dirent, 0),
            Key::new(dir, Kind::Dirent, u64::MAX),
        );
        t.view().walk(from, to, Dirent::decode, |key, entry| {
            if entry.ino == file {
                twice = Some((key, entry));
            }
            Ok(Walk::On)
        })?;
        let (key, entry) = twice.unwrap();
        let beside = Key::new(dir, Kind::Dirent, key.offset ^ 1);
        t.insert(beside, &entry.encode())?;
        t.update_inode(inner, |i| {
            i.nlink = 0;
            Ok(())
        })?;
        Ok(())
    });
    let twice = |f: &Finding| matches!(f, Finding::DuplicateName { .. });
    assert!(found.iter().any(twice), "{found:?}");
}

/// Links that are counted right, and a name for none of them.
#[test]
fn inodes_without_a_name_are_found() {
    let s = sample(4096);
    let lost = change(&s.meta, |t| {
        let empty = t.create(Ino::ROOT, b"empty", &directory())?.0;
        let lost = t.create(Ino::ROOT, b"lost", &file())?.0;
        for name in [&b"empty"[..], b"lost"] {
            let mut place = None;
            let (from, to) = (
                Key::new(Ino::ROOT, Kind::Dirent, 0),
                Key::new(Ino::ROOT, Kind::Dirent, u64::MAX),
            );
            t.view().walk(from, to, Dirent::decode, |key, entry| {
                if entry.name == name {
                    place = Some(key);
                }
                Ok(Walk::On)
            })?;
            t.remove_known(&place.unwrap())?;
        }
        t.update_inode(Ino::ROOT, |i| {
            i.entries -= 2;
            i.nlink -= 1;
            Ok(())
        })?;
        for ino in [empty, lost] {
            t.update_inode(ino, |i| {
                i.nlink = 0;
                Ok(())
            })?;
        }
        Ok([empty, lost])
    });
    let report = s.check();
    for ino in lost {
        let unreachable = Finding::Unreachable { ino };
        assert!(report.findings.contains(&unreachable), "{report:?}");
    }
}

#[test]
fn counts_of_blocks_that_are_not_there_and_unwritten_blocks_with_two_owners_are_found() {
    let s = sample(4096);
    let (file, clone) = (s.file, s.clone);
    let far = DiskRun::new(DiskBlock::new(1 << 40), 1);
    let found = s.damaged(|t| {
        let count = RefcountItem { len: 1, count: 2 };
        t.insert(Key::refcount(far.start), &count.encode())?;
        // The unwritten blocks of the file, in the clone too, and counted.
        let extent = t
            .view()
            .extent_at(file, BlockRange::at(FileBlock::new(12), 4))?;
        let crate::meta::extents::ExtentState::Mapped { start, .. } = extent.state else {
            panic!("{extent:?}");
        };
        let run = DiskRun::new(start, 4);
        let item = ExtentItem {
            run,
            unwritten: true,
        };
        t.insert(Key::extent(clone, FileBlock::new(50)), &item.encode())?;
        let count = RefcountItem { len: 4, count: 2 };
        t.insert(Key::refcount(run.start), &count.encode())
    });
    let ino = Ino::GLOBAL;
    assert!(
        found.contains(&Finding::OutOfRange { ino, run: far }),
        "{found:?}"
    );
    let twice = |f: &Finding| matches!(f, Finding::UsedTwice { run } if run.len == 4);
    assert!(found.iter().any(twice), "{found:?}");
}

/// The other slot belongs to another file system.
#[test]
fn a_slot_of_another_file_system_is_found() {
    let s = sample(4096);
    let report = s.check();
    let newest = report.census.generation;
    for (slot, addr) in SLOT_ADDRS.into_iter().enumerate() {
        let image = s.device.image();
        let mut sb = Superblock::decode(&image[addr as usize..]).unwrap();
        if sb.generation == newest {
            continue;
        }
        sb.uuid[0] ^= 1;
        bytes::write_bytes(&*s.device, DevAddr::new(addr), &sb.encode(), false).unwrap();
        let bad = check(Arc::clone(&s.device) as _).unwrap();
        assert_eq!(bad.findings, [Finding::ForeignSlot { slot }]);
    }
}

/// A mount believes no image in which a block has two owners and no count.
#[test]
fn a_mount_refuses_blocks_that_are_in_use_twice() {
    let s = sample(4096);
    let clone = s.clone;
    change(&s.meta, |t| {
        let run = DiskRun::new(DiskBlock::new(16), 1);
        let item = ExtentItem {
            run,
            unwritten: true,
        };
        t.insert(Key::extent(clone, FileBlock::new(100)), &item.encode())
    });
    s.meta.commit().unwrap();
    let opened = Meta::open(Arc::clone(&s.device) as _, OpenOptions::default());
    assert!(matches!(opened, Err(crate::meta::OpenError::Corrupt(_))));
}
