//! Images that were tampered with: what goes over a whole tree ends all the same.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::process::Command;

use common::Bench;
use testfs::format::superblock::SLOT_ADDRS;
use testfs::format::{Superblock, node};

const BLOCK: usize = 4096;

/// An image in which `/outer/inner-loop` is `/outer` again.
fn with_loop() -> Bench {
    redirected(&["/outer"], "/outer")
}

/// An image with the directories `dirs` in which `/outer/inner-loop` is `to`.
fn redirected(dirs: &[&str], to: &str) -> Bench {
    let bench = Bench::empty();
    bench.ok(["mkfs", "-t", "testfs", "t.img", "--size", "16M", "-b", "4K"]);
    for dir in dirs {
        bench.ok(["mkdir", "-p", &format!("t.img:{dir}")]);
    }
    bench.ok(["mkdir", "-p", "t.img:/outer/inner-loop"]);
    let ino = |path: &str| bench.json(["stat", "--json", path])["paths"][0]["ino"].as_u64();
    let outer = ino(&format!("t.img:{to}")).unwrap();
    let inner = ino("t.img:/outer/inner-loop").unwrap();
    let mut image = fs::read(bench.path("t.img")).unwrap();
    let mut roots = Vec::new();
    for (n, block) in image.chunks_mut(BLOCK).enumerate() {
        // So few items are one leaf.
        if block[..4] != node::MAGIC || block[24] != 0 {
            continue;
        }
        let name = b"inner-loop";
        let at = block.windows(name.len()).position(|bytes| bytes == name);
        // An entry is the inode, its type and its name.
        let Some(at) = at.map(|at| at - 9) else {
            continue;
        };
        assert_eq!(block[at..at + 8], inner.to_le_bytes());
        block[at..at + 8].copy_from_slice(&outer.to_le_bytes());
        let crc = node::checksum(block);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        roots.push((n as u64, crc));
    }
    for at in SLOT_ADDRS.map(|at| at as usize) {
        let mut slot = Superblock::decode(&image[at..]).unwrap();
        let root = roots.iter().find(|root| root.0 == slot.root.addr.get());
        if let Some((_, crc)) = root {
            slot.root.crc = *crc;
            let bytes = slot.encode();
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    fs::write(bench.path("t.img"), image).unwrap();
    bench
}

#[test]
fn a_directory_below_itself_is_gone_into_once() {
    let bench = with_loop();
    let walks: [&[&str]; 7] = [
        &["ls", "-R", "t.img"],
        &["tree", "t.img"],
        &["du", "t.img"],
        &["cp", "-r", "t.img:/outer", "out"],
        &["chmod", "-R", "go-w", "t.img:/outer"],
        &["chown", "-R", "0:0", "t.img:/outer"],
        &["rm", "-r", "t.img:/outer"],
    ];
    for walk in walks {
        let said = bench.fails(1, walk);
        let told = said.contains("second name of a directory") || said.contains("a loop");
        assert!(told, "{walk:?}: {said}");
    }
}

#[test]
fn a_directory_with_two_names_is_copied_once() {
    let bench = redirected(&["/outer/one/below"], "/outer/one");
    let said = bench.fails(1, ["cp", "-r", "t.img:/outer", "out"]);
    assert!(said.contains("a second name of a directory"), "{said}");
    let copied = ["one", "inner-loop"].map(|name| bench.path("out").join(name).join("below"));
    let there = copied.iter().filter(|path| path.exists()).count();
    assert_eq!(there, 1, "{copied:?}");
}

#[test]
fn a_deep_tree_needs_no_deep_stack() {
    let bench = Bench::new();
    let deep: String = "/d".repeat(1000);
    bench.ok(["mkdir", "-p", &format!("t.img:{deep}")]);
    let listed = Command::new("sh")
        .args(["-c", "ulimit -s 512 && exec \"$0\" ls -R t.img"])
        .arg(bench.command::<_, &str>([]).get_program())
        .current_dir(bench.path("."))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{:?}", listed.status);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().filter(|line| *line == "d").count(), 1000);
}
