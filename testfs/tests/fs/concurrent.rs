//! Many threads on few files; the rank checker watches the locks in this build.

use std::sync::atomic::{AtomicBool, Ordering};

use iomap_core::vfs::{Fallocate, IoFlags, SetAttr, Vfs};

use super::util::*;

/// Everything written is one byte repeated per 512 bytes: a torn or foreign sector shows.
fn sector(tag: u8) -> Vec<u8> {
    vec![tag; 512]
}

fn verify_sectors(bytes: &[u8]) {
    for (n, chunk) in bytes.chunks(512).enumerate() {
        let first = chunk[0];
        assert!(chunk.iter().all(|b| *b == first), "sector {n} is torn");
    }
}

#[test]
fn writers_readers_truncate_punch_and_clone_at_once() {
    let mut bed = Bed::new(64 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    let stop = AtomicBool::new(false);
    const SPAN: u64 = 1 << 20;
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (bed, a, b, stop) = (&bed, &a, &b, &stop);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for _ in 0..400 {
                    let file = if rng.bool() { a } else { b };
                    let pos = rng.u64(..SPAN / 512) * 512;
                    let len = rng.u64(1..64) * 512;
                    let direct = if rng.bool() {
                        IoFlags::DIRECT
                    } else {
                        IoFlags::empty()
                    };
                    match rng.u8(..12) {
                        0..=4 => write_with(
                            &**file,
                            pos,
                            &sector(rng.u8(1..)).repeat(len as usize / 512),
                            direct,
                        ),
                        5 => {
                            let set = SetAttr {
                                size: Some(pos),
                                ..SetAttr::default()
                            };
                            bed.fs.setattr(file.ino(), &set).unwrap();
                        }
                        6 => file
                            .fallocate(Fallocate::PunchHole, range(pos, len))
                            .unwrap(),
                        7 => file
                            .fallocate(Fallocate::ZeroRange, range(pos, len))
                            .unwrap(),
                        8 => {
                            let from = range(pos & !4095, len & !4095);
                            // May be past the end by now.
                            let _any = a.clone_range(from, &**b, at(rng.u64(..256) * 4096));
                        }
                        9 => file.fsync(rng.bool()).unwrap(),
                        10 => {
                            let mode = if rng.bool() {
                                Fallocate::CollapseRange
                            } else {
                                Fallocate::InsertRange
                            };
                            let _any = file.fallocate(mode, range(pos & !4095, 4096));
                        }
                        _ => verify_sectors(&read_with(&**file, pos, len as usize, direct)),
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bed.fs.pool().shrink(64);
                bed.fs.flusher().wake();
                std::thread::yield_now();
            }
        });
    });
    let contents = [bed.content("a"), bed.content("b")];
    contents.iter().for_each(|bytes| verify_sectors(bytes));
    drop((a, b));
    bed.remount();
    assert!(contents == [bed.content("a"), bed.content("b")]);
}

#[test]
fn create_write_unlink_and_open_by_number_at_once() {
    let mut bed = Bed::new(64 << 20);
    let root = bed.fs.root();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let bed = &bed;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for round in 0..300_u64 {
                    let name = format!("n{}", rng.u8(..8));
                    match rng.u8(..6) {
                        0 | 1 => {
                            let made = bed.fs.mknod(
                                root,
                                name.as_bytes(),
                                iomap_core::vfs::Special::Regular,
                                &NEW,
                            );
                            if let Ok(attr) = made
                                && let Ok(file) = bed.fs.open(attr.ino, RW)
                            {
                                write(&*file, 0, &pattern(round, rng.usize(1..20_000)));
                            }
                        }
                        2 => drop(bed.fs.unlink(root, name.as_bytes())),
                        3 => {
                            let to = format!("n{}", rng.u8(..8));
                            drop(bed.fs.rename(
                                root,
                                name.as_bytes(),
                                root,
                                to.as_bytes(),
                                Default::default(),
                            ));
                        }
                        4 => drop(bed.fs.sync()),
                        _ => {
                            if let Ok(attr) = bed.fs.lookup(root, name.as_bytes())
                                && let Ok(file) = bed.fs.open(attr.ino, RW)
                            {
                                let bytes = read(&*file, 0, 20_000);
                                assert!(bytes.len() <= 20_000);
                                file.fsync(true).unwrap();
                            }
                        }
                    }
                }
            });
        }
    });
    bed.remount();
    assert!(bed.fs.meta().orphans().unwrap().is_empty());
}

#[test]
fn files_leave_memory_and_come_back_with_their_content() {
    let mut bed = Bed::new(64 << 20);
    bed.fs.unmount().unwrap();
    let options = testfs::fs::MountOptions {
        cache_bytes: 4 << 20,
        idle_inodes: 3,
        ..Default::default()
    };
    bed.fs = testfs::fs::TestFs::mount(bed.device.clone(), options).unwrap();
    for n in 0..60_u64 {
        write(
            &*bed.create(&format!("f{n}")),
            0,
            &pattern(n, 30_000 + n as usize),
        );
        write(&*bed.create(&format!("s{n}")), 0, &pattern(n, 50));
    }
    assert!(bed.fs.inodes_in_memory() <= 4);
    for n in (0..60_u64).rev() {
        assert!(bed.content(&format!("f{n}")) == pattern(n, 30_000 + n as usize));
        assert!(bed.content(&format!("s{n}")) == pattern(n, 50));
    }
}
