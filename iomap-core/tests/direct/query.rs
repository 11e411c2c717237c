//! Seek, fiemap, bmap and swap extents.

use iomap_core::error::{Errno, FsError, SeekError};
use iomap_core::fiemap::{Extent, ExtentFlags, bmap, fiemap};
use iomap_core::iomap::FsFlags;
use iomap_core::ops::{Intent, MapOps};
use iomap_core::seek::{Whence, seek};
use iomap_core::swapfile::{SwapExtent, swap_extents};
use iomap_core::units::{DevAddr, FileRange};

use crate::file::{Block, LIMITS, TestFile, pos, range};

fn data(file: &TestFile, at: u64) -> Result<u64, SeekError> {
    seek(file, pos(at), Whence::Data).map(iomap_core::units::FilePos::bytes)
}

fn hole(file: &TestFile, at: u64) -> Result<u64, SeekError> {
    seek(file, pos(at), Whence::Hole).map(iomap_core::units::FilePos::bytes)
}

#[test]
fn data_and_holes_alternate() {
    let file = TestFile::new(12);
    file.lay_out(1..3, Some(1));
    file.lay_out(5..6, Some(1));
    file.inode().set_size(pos(30_000));
    assert_eq!(data(&file, 0), Ok(4096));
    assert_eq!(data(&file, 5000), Ok(5000));
    assert_eq!(hole(&file, 0), Ok(0));
    assert_eq!(hole(&file, 5000), Ok(3 * 4096));
    assert_eq!(data(&file, 3 * 4096), Ok(5 * 4096));
    assert_eq!(hole(&file, 5 * 4096), Ok(6 * 4096));
    assert_eq!(data(&file, 6 * 4096), Err(SeekError::NoSuchRegion));
    assert_eq!(hole(&file, 29_999), Ok(29_999));
    for whence in [Whence::Data, Whence::Hole] {
        assert_eq!(
            seek(&*file, pos(30_000), whence),
            Err(SeekError::NoSuchRegion)
        );
    }
}

#[test]
fn the_end_of_the_file_is_a_hole() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.inode().set_size(pos(5000));
    assert_eq!(hole(&file, 100), Ok(5000));
    assert_eq!(data(&file, 4999), Ok(4999));
}

#[test]
fn an_unwritten_extent_holds_what_the_cache_holds() {
    let file = TestFile::new(12);
    file.lay_out(0..8, None);
    assert_eq!(data(&file, 0), Err(SeekError::NoSuchRegion));
    assert_eq!(hole(&file, 0), Ok(0));
    file.store(3, 7);
    assert_eq!(data(&file, 0), Ok(3 * 4096));
    assert_eq!(hole(&file, 3 * 4096), Ok(4 * 4096));
    assert_eq!(data(&file, 4 * 4096), Err(SeekError::NoSuchRegion));
}

#[test]
fn reserved_space_and_inline_bytes_are_data() {
    let file = TestFile::new(12);
    file.state.lock().blocks.insert(1, Block::Delalloc);
    file.inode().set_size(pos(3 * 4096));
    assert_eq!(data(&file, 0), Ok(4096));
    assert_eq!(hole(&file, 4096), Ok(2 * 4096));
    let file = TestFile::with(12, LIMITS, Some(512));
    file.inode().set_size(pos(100));
    assert_eq!(data(&file, 0), Ok(0));
    assert_eq!(hole(&file, 0), Ok(100));
}

#[test]
fn a_failing_backend_fails_the_seek() {
    let file = TestFile::new(12);
    file.inode().set_size(pos(4096));
    file.hooks.lock().begin = Some(Box::new(|_| Err(FsError::from(Errno::IO).into())));
    assert_eq!(data(&file, 0).unwrap_err().errno(), Errno::IO);
}

#[test]
fn extents_say_what_they_are_and_which_is_the_last() {
    let file = TestFile::new(12);
    file.lay_out(1..3, Some(1));
    file.lay_out(4..5, None);
    file.state.lock().blocks.insert(6, Block::Delalloc);
    let extent = |start: u64, end: u64, physical: Option<u64>, flags| Extent {
        range: range(start << 12, end << 12),
        physical: physical.map(|at| DevAddr::new(at << 12)),
        flags,
    };
    let unknown = ExtentFlags::UNKNOWN | ExtentFlags::DELALLOC;
    let first = extent(1, 3, Some(1), ExtentFlags::empty());
    let second = extent(4, 5, Some(3), ExtentFlags::UNWRITTEN);
    let third = extent(6, 7, None, unknown | ExtentFlags::LAST);
    assert_eq!(
        fiemap(&*file, FileRange::ALL, false).unwrap(),
        [first, second, third]
    );
    // The last one of the range is not the last one of the file.
    assert_eq!(fiemap(&*file, range(0, 4 << 12), false).unwrap(), [first]);
    assert_eq!(
        fiemap(&*file, range(6 << 12, 7 << 12), false).unwrap(),
        [third]
    );
    assert_eq!(fiemap(&*file, range(0, 0), false).unwrap(), []);
    file.state.lock().flags = FsFlags::SHARED | FsFlags::MERGED;
    let flags = fiemap(&*file, range(0, 2 << 12), false).unwrap()[0].flags;
    assert_eq!(flags, ExtentFlags::SHARED | ExtentFlags::MERGED);
    let file = TestFile::with(12, LIMITS, Some(512));
    let wanted = ExtentFlags::DATA_INLINE | ExtentFlags::NOT_ALIGNED | ExtentFlags::LAST;
    assert_eq!(
        fiemap(&*file, FileRange::ALL, false).unwrap()[0].flags,
        wanted
    );
}

#[test]
fn an_error_after_the_first_extents_is_kept() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.state.lock().longest = 1;
    file.hooks.lock().begin = Some(Box::new(|req| {
        let late = req.intent == Intent::Report && req.range.start().bytes() > 0;
        if late {
            Err(FsError::from(Errno::IO).into())
        } else {
            Ok(())
        }
    }));
    assert_eq!(
        fiemap(&*file, FileRange::ALL, false).unwrap_err().errno(),
        Errno::IO
    );
}

#[test]
fn synced_extents_and_bmap_have_addresses() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 8192]).unwrap();
    assert_eq!(
        fiemap(&*file, FileRange::ALL, false).unwrap()[0].physical,
        None
    );
    let extents = fiemap(&*file, FileRange::ALL, true).unwrap();
    assert!(extents[0].physical.is_some());
    file.write_buffered(8192, &[1; 8192]).unwrap();
    let Some(addr) = bmap(&*file, pos(12288 + 17)).unwrap() else {
        panic!()
    };
    let Some(Block::Written(at)) = file.block(3) else {
        panic!()
    };
    assert_eq!(addr.bytes(), (at << 12) + 17);
    file.lay_out(4..5, None);
    assert_eq!(bmap(&*file, pos(4 << 12)).unwrap(), None);
    assert_eq!(bmap(&*file, pos(1 << 20)).unwrap(), None);
}

#[test]
fn a_swap_file_has_storage_of_its_own_everywhere() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 8192]).unwrap();
    file.lay_out(2..4, None);
    let wanted = SwapExtent {
        first: 0,
        pages: 4,
        addr: DevAddr::new(0),
    };
    let extents = swap_extents(&*file).unwrap();
    assert_eq!(
        extents.iter().map(|extent| extent.pages).sum::<u64>(),
        wanted.pages
    );
    assert_eq!(file.state.lock().syncs, [false]);
    file.state.lock().blocks.remove(&1);
    assert_eq!(swap_extents(&*file).unwrap_err().errno(), Errno::INVAL);
    let empty = TestFile::new(12);
    assert_eq!(swap_extents(&*empty).unwrap_err().errno(), Errno::INVAL);
}

/// Data in the cache up to the end of an unwritten extent, and written data behind it.
#[test]
fn no_hole_begins_where_an_unwritten_extent_ends() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    file.lay_out(1..2, Some(1));
    file.store(0, 7);
    assert_eq!(hole(&file, 0), Ok(2 * 4096));
    assert_eq!(hole(&file, 100), Ok(2 * 4096));
}

#[test]
fn a_search_inside_a_hole_ends_where_it_begins() {
    let file = TestFile::new(10);
    file.lay_out(0..4, None);
    file.write_buffered(0, &[1; 1024]).unwrap();
    for at in [1024, 1500, 4095] {
        assert_eq!(hole(&file, at), Ok(at));
    }
    assert_eq!(hole(&file, 1000), Ok(1024));
    file.write_buffered(2048, &[1; 1024]).unwrap();
    assert_eq!(data(&file, 2500), Ok(2500));
    assert_eq!(data(&file, 1500), Ok(2048));
}
