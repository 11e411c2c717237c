//! Reads, writes, zeroing and unsharing by call.

use iomap_core::dax_io;
use iomap_core::error::Errno;
use iomap_core::units::FileRange;
use iomap_core::{unshare, zero};
use proptest::prelude::*;

use crate::file::{Disk, PAGE, pages, pos};

#[test]
fn what_is_written_is_read_and_holes_are_zeroes() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.write(5 * PAGE + 10, b"hello");
    assert_eq!(file.read(5 * PAGE + 8, 100), b"\0\0hello");
    assert_eq!(file.read(PAGE, PAGE as usize), vec![0; PAGE as usize]);
    assert_eq!(file.block(1), None);
    assert_eq!(file.read(6 * PAGE, 1), b"");
}

#[test]
fn written_bytes_are_durable_after_fsync() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    file.write(100, b"new");
    assert_eq!(file.after_crash()[100], 1);
    file.fsync();
    assert_eq!(&file.after_crash()[99..104], b"\x01new\x01");
}

#[test]
fn where_making_bytes_durable_is_cheap_a_write_does_it_at_once() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    disk.pmem.set_cheap(true);
    file.write(100, b"new");
    assert_eq!(&file.after_crash()[99..104], b"\x01new\x01");
    disk.pmem.fail_persist(Some(Errno::IO));
    let _lock = file.core().lock_exclusive();
    let error = dax_io::write(&*file, pos(0), b"x", false).unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
}

#[test]
fn a_write_to_shared_blocks_keeps_what_is_around_it() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(3, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    b.write(PAGE - 2, b"four");
    assert_eq!(a.read(0, 3 * PAGE as usize), vec![1; 3 * PAGE as usize]);
    assert_eq!(b.read(PAGE - 3, 6), b"\x01four\x01");
    assert_eq!(b.read(PAGE + 2, PAGE as usize), vec![1; PAGE as usize]);
    assert_eq!((a.block(2), b.block(2)), (b.block(2), a.block(2)));
    assert_ne!(a.block(0), b.block(0));
    // The copies are durable before anything finds them.
    b.fsync();
    assert_eq!(&b.after_crash()[PAGE as usize - 3..][..6], b"\x01four\x01");
}

#[test]
fn zeroing_leaves_holes_and_copies_shared_blocks() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(2, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    b.set_size(4 * PAGE);
    {
        let _lock = b.core().lock_exclusive();
        zero::zero_range(&*b, FileRange::between(pos(100), pos(3 * PAGE))).unwrap();
    }
    assert_eq!(b.read(0, 101)[99..], [1, 0]);
    assert_eq!(b.read(PAGE, PAGE as usize), vec![0; PAGE as usize]);
    assert_eq!(a.read(0, 2 * PAGE as usize), vec![1; 2 * PAGE as usize]);
    assert_eq!((b.block(2), b.block(3)), (None, None));
}

#[test]
fn unsharing_copies_shared_blocks_and_nothing_else() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(2, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    b.write(0, b"own");
    let own = b.block(0);
    {
        let _lock = b.core().lock_exclusive();
        unshare::unshare_range(&*b, FileRange::ALL).unwrap();
    }
    assert_eq!(b.block(0), own);
    assert_ne!(b.block(1), a.block(1));
    assert_eq!(b.read(PAGE, 2), [1, 1]);
}

#[test]
fn a_write_is_short_only_where_it_must_be() {
    let disk = Disk::new(4);
    let file = disk.file::<false>();
    let _lock = file.core().lock_exclusive();
    let done = dax_io::write(&*file, pos(0), &vec![1; 5 * PAGE as usize], false).unwrap();
    assert_eq!(done, 3 * PAGE);
    let error = dax_io::write(&*file, pos(3 * PAGE), &[1], false).unwrap_err();
    assert_eq!(error, iomap_core::error::FsError::NoSpace);
    assert_eq!(pages(0, 3).len(), file.core().size().bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_order_of_changes_gives_the_bytes_of_the_model(
        ops in prop::collection::vec(
            (0..5_u8, 0..40_000_u64, 1..9000_usize, any::<u8>()), 1..25),
    ) {
        let disk = Disk::new(512);
        let (mut file, mut model) = (disk.file::<false>(), Vec::new());
        for (kind, at, len, byte) in ops {
            match kind {
                0 | 1 => {
                    file.write(at, &vec![byte; len]);
                    let end = at as usize + len;
                    if model.len() < end {
                        model.resize(end, 0);
                    }
                    model[at as usize..end].fill(byte);
                }
                2 => {
                    let range = FileRange::at_most(pos(at), len as u64);
                    {
                        let _lock = file.core().lock_exclusive();
                        zero::zero_range(&*file, range).unwrap();
                    }
                    let end = (at as usize + len).min(model.len());
                    if (at as usize) < end {
                        model[at as usize..end].fill(0);
                    }
                }
                3 => {
                    let first = at / PAGE;
                    file.punch(first, 2).unwrap();
                    let from = (first * PAGE) as usize;
                    let end = (from + 2 * PAGE as usize).min(model.len());
                    if from < end {
                        model[from..end].fill(0);
                    }
                }
                _ => {
                    let copy = disk.file::<false>();
                    file.clone_to(&copy).unwrap();
                    // The one that is changed from here on is the copy; the other must stay.
                    file = copy;
                }
            }
            prop_assert_eq!(&file.read(0, 100_000), &model);
        }
        file.fsync();
        prop_assert_eq!(&file.after_crash(), &model);
    }
}
