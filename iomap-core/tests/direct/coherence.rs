//! What a direct I/O moves, and what the cache holds beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomap_core::device::{BioOp, Limits};
use iomap_core::direct::{DirectFlags, DirectOutcome};
use iomap_core::error::Errno;
use iomap_core::iomap::FsFlags;
use iomap_core::ops::{DirectKinds, MapOps};

use crate::device::SECRET;
use crate::file::{Block, LIMITS, TestFile, range};
use crate::{memory, read, read_all, write, write_all, write_exclusive};

const NONE: DirectFlags = DirectFlags::empty();

#[test]
fn a_read_sees_dirty_pages() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 3 * 4096]).unwrap();
    assert_eq!(read_all(&file, 4096, 4096), [1; 4096]);
    file.check_balance();
}

#[test]
fn a_write_is_seen_by_buffered_reads() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 4 * 4096]).unwrap();
    let outcome = write(&file, 4096, 8192, 2, NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(8192));
    let wanted = [[1; 4096], [2; 4096], [2; 4096], [1; 4096]].concat();
    assert_eq!(file.contents(), wanted);
    assert!(!file.inode().cache().has_pages(range(4096, 3 * 4096)));
    file.check_balance();
}

/// Nobody reads what is about to be old: the pages go before the first request.
#[test]
fn a_write_takes_the_pages_away_before_its_first_request() {
    let file = TestFile::new(12);
    file.lay_out(0..3, Some(1));
    for page in 0..3 {
        file.cache_page(page, 1);
    }
    let looking = Arc::downgrade(&file);
    let beside = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&beside);
    file.device.set_fault(move |asked| {
        let file = looking.upgrade()?;
        let cached = file.inode().cache().has_pages(range(0, 8192));
        if cached && matches!(asked.op, BioOp::Write { .. }) {
            seen.store(true, Ordering::Relaxed);
        }
        None
    });
    write_all(&file, 0, 8192, 2, NONE);
    assert!(!beside.load(Ordering::Relaxed), "pages beside the write");
    assert!(file.inode().cache().has_pages(range(8192, 12288)));
}

#[test]
fn holes_and_unwritten_blocks_read_as_zeroes() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(3));
    file.lay_out(1..2, None);
    file.lay_out(3..4, Some(4));
    let wanted = [[3; 4096], [0; 4096], [0; 4096], [4; 4096]].concat();
    assert_eq!(read_all(&file, 0, 4 * 4096), wanted);
    assert_eq!(read_all(&file, 4096, 4096), [0; 4096]);
    assert_eq!(read_all(&file, 2 * 4096, 4096), [0; 4096]);
}

#[test]
fn a_small_read_and_the_general_path_agree() {
    for bits in [9, 12, 14] {
        let file = TestFile::new(bits);
        let block = 1 << bits;
        file.lay_out(0..2, Some(1));
        file.lay_out(2..3, None);
        file.lay_out(4..6, Some(5));
        file.inode().set_size(crate::pos(5 * block + 100));
        let whole = {
            let mut to = memory(8 * block as usize, 0);
            let done = read(&file, 0, &mut to, NONE).unwrap();
            assert_eq!(done, DirectOutcome::Done(5 * block + 100));
            to[..(5 * block + 100) as usize].to_vec()
        };
        for at in (0..6 * block).step_by(512) {
            for len in [512, 1024, block] {
                let mut to = memory(len as usize, 0xAA);
                let outcome = read(&file, at, &mut to, NONE).unwrap();
                let done = (whole.len() as u64).saturating_sub(at).min(len) as usize;
                assert_eq!(outcome, DirectOutcome::Done(done as u64), "{at}+{len}");
                let wanted = &whole[whole.len().min(at as usize)..][..done];
                assert_eq!(to[..done], *wanted, "{at}+{len}");
            }
        }
        file.check_balance();
    }
}

#[test]
fn a_small_mapped_read_is_one_device_request() {
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    read_all(&file, 4096, 4096);
    assert_eq!(file.device.take_asked().len(), 1);
    assert_eq!(file.counts().mappings, 1);
}

#[test]
fn a_read_ends_at_the_size() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.inode().set_size(crate::pos(5000));
    let mut to = memory(8192, 0);
    let outcome = read(&file, 4096, &mut to, NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(904));
    assert_eq!(to[..904], [1; 904]);
    assert_eq!(
        read(&file, 8192, &mut to, NONE).unwrap(),
        DirectOutcome::Done(0)
    );
    assert_eq!(
        read(&file, 0, &mut [], NONE).unwrap(),
        DirectOutcome::Done(0)
    );
}

#[test]
fn what_the_device_cannot_address_falls_back() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    let mut to = memory(8192, 0);
    let fallen = DirectOutcome::UseBuffered { done: 0 };
    assert_eq!(read(&file, 100, &mut to[..512], NONE).unwrap(), fallen);
    assert_eq!(read(&file, 0, &mut to[..100], NONE).unwrap(), fallen);
    assert_eq!(read(&file, 0, &mut to[8..520], NONE).unwrap(), fallen);
    let from = memory(8192, 2);
    for (at, part) in [(100, &from[..512]), (0, &from[..100]), (0, &from[8..520])] {
        assert_eq!(
            write_exclusive(&file, at, part, NONE).unwrap().outcome,
            fallen
        );
    }
    assert_eq!(file.device.take_asked(), []);
    assert_eq!(file.counts().direct_fallbacks, 6);
    file.check_balance();
}

#[test]
fn a_partly_written_new_block_reads_zeroes_around_the_data() {
    for (bits, written) in [(12, false), (12, true), (16, false), (16, true)] {
        let file = TestFile::new(bits);
        let block = 1usize << bits;
        file.state.lock().allocate_written = written;
        file.inode().set_size(crate::pos(4 * block as u64));
        write_all(&file, block as u64 + 1024, 512, 7, NONE);
        let mut wanted = vec![0; 4 * block];
        wanted[block + 1024..block + 1536].fill(7);
        assert!(
            file.contents() == wanted,
            "{block} byte blocks, written: {written}"
        );
        assert_eq!(file.inode().size().bytes(), 4 * block as u64);
    }
}

#[test]
fn zeroing_takes_as_many_requests_as_the_device_wants() {
    let file = TestFile::with(
        16,
        Limits {
            max_transfer: 1024,
            ..LIMITS
        },
        None,
    );
    write_all(&file, 8192, 4096, 7, NONE);
    let asked = file.device.take_asked();
    assert!(asked.iter().all(|asked| asked.len <= 1024));
    assert_eq!(asked.iter().map(|asked| asked.len).sum::<u64>(), 65536);
    let mut wanted = vec![0; 12288];
    wanted[8192..].fill(7);
    assert_eq!(file.contents(), wanted);
}

#[test]
fn a_write_over_unwritten_blocks_converts_them() {
    let file = TestFile::new(12);
    file.lay_out(0..4, None);
    write_all(&file, 4096, 8192, 7, NONE);
    let kinds: Vec<_> = (0..4).map(|n| file.block(n)).collect();
    assert!(matches!(kinds[0], Some(Block::Unwritten(_))));
    assert!(matches!(kinds[1], Some(Block::Written(_))));
    assert!(matches!(kinds[2], Some(Block::Written(_))));
    assert!(matches!(kinds[3], Some(Block::Unwritten(_))));
    assert_eq!(file.state.lock().done, [(8192, DirectKinds::UNWRITTEN)]);
}

#[test]
fn a_growing_write_moves_the_size_and_zeroes_the_rest_of_its_block() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(SECRET));
    file.inode().set_size(crate::pos(512));
    assert_eq!(
        write(&file, 512, 512, 7, NONE).unwrap(),
        DirectOutcome::Done(512)
    );
    assert_eq!(file.inode().size().bytes(), 1024);
    file.inode().set_size(crate::pos(4096));
    let mut wanted = vec![0; 4096];
    wanted[..512].fill(SECRET);
    wanted[512..1024].fill(7);
    assert_eq!(file.contents(), wanted);
}

#[test]
fn inline_data_is_copied() {
    let file = TestFile::with(12, LIMITS, Some(1024));
    file.inode().set_size(crate::pos(1000));
    let done = write_exclusive(&file, 0, &memory(512, 5), NONE).unwrap();
    assert_eq!(done.outcome, DirectOutcome::Done(512));
    let mut to = memory(2048, 9);
    assert_eq!(
        read(&file, 0, &mut to, NONE).unwrap(),
        DirectOutcome::Done(1000)
    );
    assert_eq!(to[..512], [5; 512]);
    assert_eq!(to[512..1000], [0; 488]);
    assert_eq!(file.device.take_asked(), []);
    file.check_balance();
}

/// A store through a memory mapping reserved the block after the cache was looked at.
#[test]
fn a_read_of_reserved_blocks_comes_from_the_cache() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.inode().set_size(crate::pos(8192));
    let storing = std::sync::Arc::clone(&file);
    file.hooks.lock().begin = Some(Box::new(move |req| {
        if req.range.start().bytes() == 4096 {
            storing.store(1, 7);
        }
        Ok(())
    }));
    let outcome = read(&file, 0, &mut memory(8192, 0), NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::UseBuffered { done: 4096 });
    file.hooks.lock().begin = None;
    file.check_balance();
}

#[test]
fn shared_blocks_are_told_to_the_backend_and_only_written_whole() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.state.lock().flags = FsFlags::SHARED;
    let outcome = write(&file, 512, 512, 2, NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::UseBuffered { done: 0 });
    let outcome = write(&file, 4096, 4096, 2, NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(4096));
    assert_eq!(
        file.state.lock().done.last(),
        Some(&(4096, DirectKinds::COW))
    );
}

#[test]
fn a_pure_overwrite_is_durable_by_fua_alone() {
    let fua = BioOp::Write {
        fua: true,
        atomic: false,
    };
    let ops = |file: &TestFile| -> Vec<_> {
        file.device
            .take_asked()
            .iter()
            .map(|asked| asked.op)
            .collect()
    };
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    write_all(&file, 0, 4096, 2, DirectFlags::DSYNC);
    assert_eq!(ops(&file), [fua]);
    assert!(file.state.lock().syncs.is_empty());
    // All metadata: not by FUA.
    write_all(&file, 0, 4096, 2, DirectFlags::SYNC);
    assert_eq!(ops(&file), [BioOp::WRITE, BioOp::Flush]);
    // Metadata that is not durable.
    file.state.lock().flags = FsFlags::DIRTY;
    write_all(&file, 0, 4096, 2, DirectFlags::DSYNC);
    assert_eq!(ops(&file), [BioOp::WRITE, BioOp::Flush]);
    // A conversion; the size.
    file.state.lock().flags = FsFlags::empty();
    file.lay_out(2..3, None);
    write_all(&file, 8192, 4096, 2, DirectFlags::DSYNC);
    write_all(&file, 3 * 4096, 4096, 2, DirectFlags::DSYNC);
    assert_eq!(file.state.lock().syncs, [false, true, true, true]);
    // A device without FUA.
    let file = TestFile::with(
        12,
        Limits {
            fua: false,
            ..LIMITS
        },
        None,
    );
    file.lay_out(0..2, Some(1));
    write_all(&file, 0, 4096, 2, DirectFlags::DSYNC);
    assert_eq!(ops(&file), [BioOp::WRITE, BioOp::Flush]);
    // Without a volatile cache there is nothing to do.
    let file = TestFile::with(
        12,
        Limits {
            volatile_cache: false,
            ..LIMITS
        },
        None,
    );
    file.lay_out(0..2, Some(1));
    write_all(&file, 0, 4096, 2, DirectFlags::DSYNC);
    assert_eq!(ops(&file), [BioOp::WRITE]);
    assert!(file.state.lock().syncs.is_empty());
}

#[test]
fn an_untorn_write_is_one_request_or_none() {
    let atomic = DirectFlags::ATOMIC;
    let limits = Limits {
        atomic_write: (512, 16384),
        ..LIMITS
    };
    let file = TestFile::with(12, limits, None);
    file.lay_out(0..16, Some(1));
    write(&file, 8192, 8192, 2, atomic).unwrap_err();
    let asked = file.device.take_asked();
    // Block 2 lives at block 3 of the device: the address is not aligned.
    assert_eq!(asked, []);
    write_all(&file, 12288, 4096, 2, atomic);
    let asked = file.device.take_asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].op,
        BioOp::Write {
            fua: false,
            atomic: true
        }
    );
    for (at, len) in [(0, 12288), (4096, 8192), (0, 32768), (512, 1024)] {
        let error = write(&file, at, len, 2, atomic).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{at}+{len}");
    }
    file.state.lock().longest = 1;
    assert_eq!(
        write(&file, 0, 8192, 2, atomic).unwrap_err().errno(),
        Errno::INVAL
    );
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    assert_eq!(
        write(&file, 0, 4096, 2, atomic).unwrap_err().errno(),
        Errno::OPNOTSUPP
    );
    file.check_balance();
}
