//! What a mount says about what is not, or not quite, a testfs; and that it forgets nothing.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{Errno, FsError};
use iomap_core::units::DevAddr;

use super::node::Node;
use super::testing::{file, new_fs, options};
use super::{Meta, MkfsOptions, OpenError, OpenOptions, Purpose, recognise};
use crate::format::superblock::SLOT_ADDRS;
use crate::format::{Ino, Superblock};

fn open(device: &Arc<MemoryDevice>, read_only: bool) -> Result<Meta, OpenError> {
    let options = OpenOptions {
        read_only,
        ..OpenOptions::default()
    };
    Meta::open(Arc::clone(device) as _, options)
}

/// Changes both superblocks.
fn edit(device: &MemoryDevice, f: impl Fn(&mut Superblock)) {
    for addr in SLOT_ADDRS {
        let image = device.image();
        let mut superblock = Superblock::decode(&image[addr as usize..]).unwrap();
        f(&mut superblock);
        device
            .write_at(DevAddr::new(addr), &superblock.encode())
            .unwrap();
    }
}

#[test]
fn what_is_there_instead_is_named() {
    let cases: [(usize, &[u8], &str); 4] = [
        (1080, b"\x53\xef", "ext4"),
        (65536, b"\x01\x16\x19\x70", "gfs2"),
        (510, b"\x55\xaa", "MBR"),
        (100, b"x", "nothing known"),
    ];
    for (at, magic, word) in cases {
        let mut image = vec![0; 1 << 20];
        image[at..at + magic.len()].copy_from_slice(magic);
        let device = Arc::new(MemoryDevice::from_image(&image));
        let error = open(&device, false).unwrap_err();
        assert!(matches!(error, OpenError::NotTestfs { .. }));
        assert!(error.to_string().contains(word), "{error}");
    }
    let (device, _) = new_fs(4096, 256);
    assert_eq!(recognise(&*device).unwrap(), Some("testfs"));
    let blank = MemoryDevice::new(1 << 20);
    assert_eq!(recognise(&blank).unwrap(), Some("blank space"));
}

#[test]
fn a_cut_image_an_unknown_version_and_unknown_features_are_refused_by_name() {
    let (device, meta) = new_fs(4096, 256);
    drop(meta);
    let cut = MemoryDevice::from_image(&device.image()[..255 * 4096]);
    assert_eq!(
        open(&Arc::new(cut), true).unwrap_err(),
        OpenError::Truncated {
            have: 255 * 4096,
            need: 256 * 4096
        }
    );
    edit(&device, |sb| sb.features.compat = 1);
    assert!(open(&device, false).is_ok());
    edit(&device, |sb| sb.features.ro_compat = 2);
    assert_eq!(open(&device, false).unwrap_err().errno(), Errno::ROFS);
    let meta = open(&device, true).unwrap();
    assert_eq!(meta.identity().features.ro_compat, 2);
    edit(&device, |sb| sb.features.incompat = 4);
    let refused = OpenError::Features {
        bits: 6,
        read_only_possible: false,
    };
    assert_eq!(open(&device, true).unwrap_err(), refused);
}

#[test]
fn a_read_only_mount_changes_nothing_and_says_so() {
    let (device, meta) = new_fs(4096, 256);
    meta.update(Purpose::Normal, |txn| {
        txn.create_unnamed(Ino::ROOT, &file())
    })
    .unwrap();
    meta.commit().unwrap();
    let before = device.image();
    let meta = open(&device, true).unwrap();
    assert_eq!(meta.orphans().unwrap().len(), 1);
    let refused = meta.update(Purpose::Must, |txn| txn.create(Ino::ROOT, b"f", &file()));
    assert_eq!(refused.unwrap_err(), FsError::ReadOnly);
    assert_eq!(meta.reserve(1).unwrap_err(), FsError::ReadOnly);
    meta.commit().unwrap();
    assert!(device.image() == before);
}

#[test]
fn a_new_file_system_is_what_was_asked_for() {
    let device = Arc::new(MemoryDevice::new(1 << 20));
    let asked = MkfsOptions {
        label: "ärger".to_owned(),
        root_mode: 0o1777,
        root_owner: (7, 8),
        size: Some(900_000),
        ..options(2048)
    };
    Meta::mkfs(Arc::clone(&device) as _, &asked).unwrap();
    let meta = open(&device, false).unwrap();
    assert_eq!(meta.identity().label, "ärger");
    assert_eq!(meta.geometry().blocks(), 900_000 / 2048);
    let root = meta.read(|view| view.inode(Ino::ROOT)).unwrap();
    assert_eq!((root.mode, root.uid, root.gid), (0o41777, 7, 8));
    assert_eq!((root.nlink, root.parent), (2, Ino::ROOT));
    for bad in [
        MkfsOptions {
            block_size: 512,
            ..options(1024)
        },
        MkfsOptions {
            block_size: 3000,
            ..options(1024)
        },
        MkfsOptions {
            block_size: 65536,
            ..options(1024)
        },
        MkfsOptions {
            label: "x".repeat(65),
            ..options(1024)
        },
        MkfsOptions {
            size: Some(2 << 20),
            ..options(1024)
        },
    ] {
        let refused = Meta::mkfs(Arc::clone(&device) as _, &bad);
        assert!(matches!(refused, Err(FsError::Invalid(_))), "{bad:?}");
    }
    // A refusal leaves what was there.
    assert!(open(&device, false).is_ok());
}

#[test]
fn a_small_cache_of_nodes_is_enough() {
    let (device, meta) = new_fs(1024, 8192);
    for n in 0..3000 {
        let name = format!("name {n}");
        meta.update(Purpose::Normal, |txn| {
            txn.create(Ino::ROOT, name.as_bytes(), &file())
        })
        .unwrap();
    }
    meta.commit().unwrap();
    let options = OpenOptions {
        cached_nodes: 16,
        ..OpenOptions::default()
    };
    let meta = Meta::open(Arc::clone(&device) as _, options).unwrap();
    for n in (0..3000).rev() {
        let name = format!("name {n}");
        meta.read(|view| view.lookup(Ino::ROOT, name.as_bytes()))
            .unwrap();
    }
    assert!(meta.store.cached() <= 17, "{}", meta.store.cached());
}

#[test]
fn damage_met_while_running_stops_that_operation_only() {
    let (device, meta) = new_fs(1024, 4096);
    for n in 0..2000 {
        let name = format!("name {n}");
        meta.update(Purpose::Normal, |txn| {
            txn.create(Ino::ROOT, name.as_bytes(), &file())
        })
        .unwrap();
    }
    meta.commit().unwrap();
    let options = OpenOptions {
        cached_nodes: 16,
        ..OpenOptions::default()
    };
    let meta = Meta::open(Arc::clone(&device) as _, options).unwrap();
    // One leaf goes bad behind the mount's back.
    let mut leaves = Vec::new();
    let tree = meta.state.read().version.tree.clone();
    tree.walk_nodes(&meta.store, &mut |ptr, node| {
        if matches!(node, Node::Leaf(_)) {
            leaves.push(ptr.addr);
        }
        Ok(())
    })
    .unwrap();
    // In the middle: among the inodes, and not where new ones go.
    let bad = leaves[leaves.len() * 3 / 4];
    let addr = meta.block_addr(bad);
    for n in 0..60 {
        // Whatever the cache still holds of it is pushed out by looking at others.
        let name = format!("name {n}");
        let _ = meta.read(|view| view.lookup(Ino::ROOT, name.as_bytes()));
    }
    device.write_at(addr, &[0x5a; 1024]).unwrap();
    let (mut good, mut corrupt) = (0, 0);
    for ino in 2..2002 {
        match meta.read(|view| view.inode(Ino::new(ino))) {
            Ok(_) => good += 1,
            Err(error @ FsError::Corrupt(_)) => {
                corrupt += 1;
                let block = bad.to_string();
                assert!(error.to_string().contains(&block), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(good > 1900 && corrupt > 0, "{good} {corrupt}");
    meta.update(Purpose::Normal, |txn| {
        txn.create(Ino::ROOT, b"still works", &file())
    })
    .unwrap();
}
