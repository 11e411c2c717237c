//! First bytes of images: types without a backend yet, and things that are no file system.
//!
//! Owns the places and values of the magic numbers, from the public format documents. What a
//! backend serves is recognised by its driver.

/// Bytes of an image that are looked at: all magic numbers lie in them.
pub(crate) const HEAD_BYTES: usize = (64 << 10) + 4096;

/// Whether `bytes` stand at `offset`.
fn at(head: &[u8], offset: usize, bytes: &[u8]) -> bool {
    head.get(offset..offset + bytes.len()) == Some(bytes)
}

/// ext2, ext3 and ext4: a little-endian 0xEF53 in the superblock at 1024.
pub(super) fn is_ext4(head: &[u8]) -> bool {
    at(head, 1024 + 56, &[0x53, 0xef])
}

/// gfs2: a big-endian 0x01161970 in sector 128, then the type of a superblock.
pub(super) fn is_gfs2(head: &[u8]) -> bool {
    at(head, 128 * 512, &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1])
}

/// What something is that is no type of ours; `None` if it is not known.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    const KNOWN: &[(usize, &[u8], &str)] = &[
        (0, b"XFSB", "an XFS file system"),
        (64 * 1024 + 64, b"_BHRfS_M", "a btrfs file system"),
        (0, b"hsqs", "a squashfs file system"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "an f2fs file system"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "an erofs file system"),
        (3, b"NTFS    ", "an NTFS file system"),
        (3, b"EXFAT   ", "an exFAT file system"),
        (54, b"FAT1", "a FAT file system"),
        (82, b"FAT32", "a FAT file system"),
        (32769, b"CD001", "a CD image"),
        (512, b"EFI PART", "a disk with a GPT partition table"),
        (0, b"QFI\xfb", "a qcow2 disk image; convert it to a raw one"),
        (0, b"KDMV", "a VMDK disk image; convert it to a raw one"),
        (0, b"vhdxfile", "a VHDX disk image; convert it to a raw one"),
        (0, b"LUKS\xba\xbe", "an encrypted LUKS volume"),
        (0, &[0x1f, 0x8b], "gzip data"),
        (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd data"),
        (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz data"),
        (0, b"PK\x03\x04", "a zip archive"),
        (257, b"ustar", "a tar archive"),
        (0, b"\x7fELF", "a program"),
        (0, b"#!", "a script"),
        (
            510,
            &[0x55, 0xaa],
            "a disk with a partition table, or a boot sector",
        ),
    ];
    let known = KNOWN
        .iter()
        .find(|(offset, bytes, _)| at(head, *offset, bytes));
    if let Some((_, _, what)) = known {
        return Some(what);
    }
    let text = !head.is_empty()
        && head
            .iter()
            .take(512)
            .all(|b| *b == b'\t' || *b == b'\n' || *b == b'\r' || (0x20..0x7f).contains(b));
    text.then_some("text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        head
    }

    #[test]
    fn types_without_a_backend_are_recognised() {
        assert!(is_ext4(&head(1080, &[0x53, 0xef])));
        assert!(!is_ext4(&head(1080, &[0xef, 0x53])));
        assert!(is_gfs2(&head(65536, &[1, 0x16, 0x19, 0x70, 0, 0, 0, 1])));
    }

    #[test]
    fn things_people_mistake_for_images_are_named() {
        assert_eq!(foreign(b"hello\n"), Some("text"));
        assert_eq!(foreign(&head(257, b"ustar")), Some("a tar archive"));
        assert_eq!(foreign(&head(0, &[1, 2, 3])), None);
        assert_eq!(foreign(b""), None);
    }
}
