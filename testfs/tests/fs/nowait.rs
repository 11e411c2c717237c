//! Requests that must not wait: done at once, or `EAGAIN` and nothing has happened.

use iomap_core::error::Errno;
use iomap_core::vfs::{IoFlags, Vfs};

use super::util::*;

#[test]
fn a_write_that_needs_an_allocation_would_block_and_changes_nothing() {
    let bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 8192));
    for (pos, flags) in [
        (1 << 20, IoFlags::NOWAIT),
        (1 << 20, IoFlags::NOWAIT | IoFlags::DIRECT),
    ] {
        let refused = file.write_at(at(pos), &pattern(2, 4096), flags);
        assert_eq!(errno(refused), Errno::AGAIN, "{flags:?}");
    }
    assert_eq!(bed.fs.getattr(file.ino()).unwrap().size, 8192);
    assert_eq!(read(&*file, 0, 10_000), pattern(1, 8192));
}

#[test]
fn a_cached_overwrite_and_a_cached_read_do_not_wait() {
    let bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 65_536));
    file.fsync(false).unwrap();
    read(&*file, 0, 65_536);
    write(&*file, 0, &pattern(2, 4096));
    let done = file.write_at(at(4096), &pattern(3, 4096), IoFlags::NOWAIT);
    assert_eq!(done.unwrap(), 4096);
    assert_eq!(
        read_with(&*file, 4096, 4096, IoFlags::NOWAIT),
        pattern(3, 4096)
    );
}

#[test]
fn a_read_that_needs_the_device_would_block() {
    let mut bed = Bed::new(16 << 20);
    write(&*bed.create("a"), 0, &pattern(1, 65_536));
    bed.remount();
    let file = bed.open("a");
    let mut bytes = [0; 4096];
    assert_eq!(
        errno(file.read_at(at(0), &mut bytes, IoFlags::NOWAIT)),
        Errno::AGAIN
    );
    read(&*file, 0, 65_536);
    assert_eq!(
        file.read_at(at(0), &mut bytes, IoFlags::NOWAIT).unwrap(),
        4096
    );
    assert_eq!(bytes[..], pattern(1, 65_536)[..4096]);
}

#[test]
fn a_write_to_shared_blocks_would_block() {
    let bed = Bed::new(16 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, &pattern(1, 65_536));
    a.clone_range(range(0, 65_536), &*b, at(0)).unwrap();
    // A private copy has to be made first.
    for flags in [IoFlags::empty(), IoFlags::DIRECT] {
        let refused = b.write_at(at(0), &pattern(2, 4096), flags | IoFlags::NOWAIT);
        assert_eq!(errno(refused), Errno::AGAIN);
    }
    assert_eq!(bed.content("b"), pattern(1, 65_536));
}
