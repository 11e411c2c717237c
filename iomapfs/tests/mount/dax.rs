//! `mount -o dax`: files without a page cache, whose bytes are those of the image.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, IFlags, StatxAttributes, StatxFlags};

use super::{Bed, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    (
        "with_dax_what_is_written_is_in_the_image_at_once",
        in_the_image,
    ),
    (
        "with_dax_inode_the_files_with_the_flag_are_dax_files",
        by_flag,
    ),
    ("what_cannot_be_dax_is_refused_by_name", refused),
];

/// Bytes that are in no image by themselves.
const WORDS: &[u8] = b"these bytes went through the mount of a DAX file";
const AT: u64 = 5_000;
/// The attribute flag (`FS_DAX_FL`).
const FLAG: IFlags = IFlags::from_bits_retain(0x0200_0000);

/// A small image in place of the large one: it gets all of its storage.
fn small_image(bed: &Bed, block_size: &str) {
    fs::remove_file(bed.bench.path("t.img")).unwrap();
    let image = ["mkfs", "-t", "testfs", "t.img", "--size", "16M"];
    let more = ["--block-size", block_size, "--root-owner", "0:0"];
    bed.bench.ok([&image[..], &more].concat());
}

fn is_in(image: &Path, words: &[u8]) -> bool {
    let image = fs::read(image).unwrap();
    image.windows(words.len()).any(|bytes| bytes == words)
}

/// Bytes written and read of DAX files so far.
fn dax_bytes(bed: &Bed) -> (u64, u64) {
    let told = bed.bench.json(["stats", "--json", "mnt"]);
    let counter = |name: &str| told["counters"][name].as_u64().unwrap();
    (counter("dax_write_bytes"), counter("dax_read_bytes"))
}

fn in_the_image(bed: &Bed) {
    small_image(bed, "4096");
    let image = bed.bench.path("t.img");
    for policy in ["cache=user", "cache=kernel"] {
        bed.mounted(&["-o", "dax", "-o", policy]);
        let name = bed.at(policy);
        let file = File::create_new(&name).unwrap();
        let words = [WORDS, policy.as_bytes()].concat();
        file.write_all_at(&words, AT).unwrap();
        if policy == "cache=user" {
            // No page cache: not even a sync is needed for others to see them.
            assert!(is_in(&image, &words), "{policy}");
        }
        file.sync_all().unwrap();
        assert!(is_in(&image, &words), "{policy}");
        let mut seen = vec![0; words.len()];
        file.read_exact_at(&mut seen, AT).unwrap();
        assert_eq!(seen, words, "{policy}");
        let (written, _) = dax_bytes(bed);
        assert!(written >= words.len() as u64, "{policy}");
        // A program that maps it here gets pages of the kernel's, and is told so.
        let attributes = rustix::fs::statx(
            rustix::fs::CWD,
            &name,
            AtFlags::empty(),
            StatxFlags::BASIC_STATS,
        );
        let attributes = attributes.unwrap().stx_attributes;
        assert!(!attributes.contains(StatxAttributes::DAX), "{policy}");
        drop(file);
        bed.unmount();
        // The same file without DAX.
        let path = format!("t.img:/{policy}");
        let content = bed.bench.run(["cat", &path]).stdout;
        assert_eq!(content[AT as usize..], words, "{policy}");
    }
    bed.bench.ok(["check", "t.img"]);
}

fn by_flag(bed: &Bed) {
    small_image(bed, "4096");
    bed.mounted(&["-o", "dax=inode"]);
    for name in ["dax", "cached"] {
        fs::write(bed.at(name), WORDS).unwrap();
    }
    let file = File::open(bed.at("dax")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, flags | FLAG).unwrap();
    drop(file);
    // From the next time it comes into memory.
    bed.unmount();
    for (options, name, is_dax) in [
        ("dax=inode", "dax", true),
        ("dax=inode", "cached", false),
        ("dax=never", "dax", false),
        ("dax=always", "cached", true),
    ] {
        bed.mounted(&["-o", options]);
        let file = File::options().write(true).open(bed.at(name)).unwrap();
        file.write_all_at(WORDS, AT).unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(dax_bytes(bed).0 > 0, is_dax, "{options} {name}");
        bed.unmount();
    }
    bed.bench.ok(["check", "t.img"]);
}

fn refused(bed: &Bed) {
    small_image(bed, "1024");
    let said = bed
        .bench
        .fails(32, ["mount", "t.img", "mnt", "-o", "dax"].as_slice());
    assert!(said.contains("smaller than a page"), "{said}");
    let said = bed.bench.fails(
        1,
        ["mount", "t.img", "mnt", "-o", "dax=sometimes"].as_slice(),
    );
    assert!(
        said.contains("dax=always, dax=inode or dax=never"),
        "{said}"
    );
    assert!(!bed.is_mounted());
}
