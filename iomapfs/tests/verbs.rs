//! Every verb: what it does, what it prints for programs, and what it says when it cannot.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::Bench;

fn with_tree() -> Bench {
    let bench = Bench::new();
    bench.ok(["mkdir", "-p", "t.img:/etc/conf.d", "t.img:/home"]);
    fs::write(bench.path("passwd"), "root:x:0:0\n").unwrap();
    bench.ok(["cp", "passwd", "t.img:/etc/passwd"]);
    bench.ok(["ln", "-s", "../etc", "t.img:/home/link"]);
    bench
}

#[test]
fn mkfs_makes_what_info_tells() {
    let bench = Bench::empty();
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    bench.ok([
        "mkfs", "-t", "testfs", "a.img", "--size", "16M", "-L", "my label", "-U", uuid, "-b", "1K",
    ]);
    let info = bench.json(["info", "--json", "a.img"]);
    assert_eq!(info["type"], "testfs");
    assert_eq!(
        (info["label"].as_str(), info["uuid"].as_str()),
        (Some("my label"), Some(uuid))
    );
    assert_eq!(
        (info["block_size"].as_u64(), info["image_bytes"].as_u64()),
        (Some(1024), Some(16 << 20))
    );
    let text = bench.ok(["info", "a.img"]);
    assert!(text.contains("my label") && text.contains(uuid), "{text}");
}

#[test]
fn mkfs_overwrites_nothing_of_value_and_leaves_nothing_behind() {
    let bench = Bench::new();
    assert!(
        bench
            .fails(1, ["mkfs", "-t", "testfs", "t.img"])
            .contains("--force")
    );
    bench.ok(["mkfs", "-t", "testfs", "t.img", "--force"]);
    fs::write(bench.path("letter"), "Dear Sir,\n").unwrap();
    assert!(
        bench
            .fails(1, ["mkfs", "-t", "testfs", "letter"])
            .contains("text")
    );
    assert_eq!(fs::read(bench.path("letter")).unwrap(), b"Dear Sir,\n");
    assert!(
        bench
            .fails(
                1,
                ["mkfs", "-t", "testfs", "t.img", "--size", "1G", "--force"]
            )
            .contains("there already")
    );
    assert!(
        bench
            .fails(
                1,
                [
                    "mkfs", "-t", "testfs", "new.img", "--size", "1M", "-b", "3K"
                ]
            )
            .contains("power of two")
    );
    assert!(
        bench
            .fails(
                2,
                [
                    "mkfs", "-t", "testfs", "new.img", "--size", "1M", "-b", "8G"
                ]
            )
            .contains("too large")
    );
    assert!(
        !bench.path("new.img").exists(),
        "what was made in vain is gone"
    );
    assert!(
        bench
            .fails(1, ["mkfs", "-t", "testfs", "new.img"])
            .contains("--size")
    );
    assert!(
        bench
            .fails(2, ["mkfs", "new.img", "--size", "1G"])
            .contains("-t testfs")
    );
    assert!(
        bench
            .fails(2, ["mkfs", "-t", "ntfs", "new.img", "--size", "1G"])
            .contains("'ntfs'")
    );
    assert!(
        bench
            .fails(1, ["mkfs", "-t", "ext4", "new.img", "--size", "1G"])
            .contains("ext4 images are not supported yet")
    );
}

#[test]
fn images_of_types_without_a_backend_are_refused_by_name() {
    let bench = Bench::empty();
    let image = |name: &str, at: usize, bytes: &[u8]| {
        let mut content = vec![0; 1 << 20];
        content[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(bench.path(name), content).unwrap();
    };
    image("e.img", 1080, &[0x53, 0xef]);
    image("g.img", 65536, &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1]);
    image("x.img", 0, b"XFSB");
    assert!(
        bench
            .fails(1, ["ls", "e.img"])
            .contains("e.img: ext4 images are not supported yet")
    );
    assert!(
        bench
            .fails(1, ["ls", "g.img"])
            .contains("gfs2 images are not supported yet")
    );
    assert!(
        bench
            .fails(1, ["ls", "x.img"])
            .contains("an XFS file system")
    );
    assert!(
        bench
            .fails(1, ["ls", "-t", "testfs", "e.img"])
            .contains("not a testfs")
    );
}

#[test]
fn ls_lists_with_types_modes_and_targets() {
    let bench = with_tree();
    assert_eq!(bench.ok(["ls", "t.img"]), "etc\nhome\n");
    assert_eq!(bench.ok(["ls", "t.img:/home/link"]), "conf.d\npasswd\n");
    let long = bench.ok(["ls", "-l", "t.img:/home"]);
    assert!(long.starts_with("lrwxrwxrwx 1 "), "{long}");
    assert!(long.ends_with("link -> ../etc\n"), "{long}");
    let json = bench.json(["ls", "--json", "-R", "t.img:/"]);
    let entries = |at: usize| json["paths"][at]["entries"].as_array().unwrap().len();
    assert_eq!(
        (
            json["paths"].as_array().unwrap().len(),
            entries(0),
            entries(1)
        ),
        (4, 2, 2)
    );
    assert_eq!(json["paths"][3]["entries"][0]["target"], "../etc");
}

#[test]
fn tree_draws_and_counts() {
    let bench = with_tree();
    let drawn = bench.ok(["tree", "t.img"]);
    let expected = "t.img:/\n├── etc\n│   ├── conf.d\n│   └── passwd\n└── home\n    └── link -> ../etc\n\n3 directories, 2 files\n";
    assert_eq!(drawn, expected);
    assert_eq!(
        bench.ok(["tree", "-L", "1", "t.img"]),
        "t.img:/\n├── etc\n└── home\n\n2 directories, 0 files\n"
    );
    assert_eq!(
        bench.json(["tree", "--json", "t.img"])["entries"][1]["depth"],
        2
    );
}

#[test]
fn stat_tells_everything_and_follows_on_request() {
    let bench = with_tree();
    bench.ok(["chmod", "4640", "t.img:/etc/passwd"]);
    bench.ok(["chown", "12:34", "t.img:/etc/passwd"]);
    let text = bench.ok(["stat", "t.img:/etc/passwd"]);
    assert!(
        text.contains("Uid: 12  Gid: 34") && text.contains("Size: 11"),
        "{text}"
    );
    let kind = |args: &[&str]| bench.json(args)["paths"][0]["type"].clone();
    assert_eq!(
        kind(&["stat", "--json", "t.img:/home/link"]),
        "symbolic link"
    );
    assert_eq!(
        kind(&["stat", "--json", "-L", "t.img:/home/link"]),
        "directory"
    );
}

#[test]
fn cat_prints_bytes_and_nothing_else_has_any() {
    let bench = with_tree();
    assert_eq!(
        bench.ok(["cat", "t.img:/etc/passwd", "t.img:/home/link/passwd"]),
        "root:x:0:0\nroot:x:0:0\n"
    );
    assert!(
        bench
            .fails(1, ["cat", "t.img:/etc"])
            .contains("is a directory")
    );
    // One that fails does not keep the others from being printed.
    let output = bench.run(["cat", "t.img:/nope", "t.img:/etc/passwd"]);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(1), &b"root:x:0:0\n"[..])
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let bench = Bench::new();
    bench.ok(["truncate", "-s", "8M", "t.img:/zeroes"]);
    let mut child = bench
        .command(["cat", "t.img:/zeroes"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn du_and_df_count_space_once() {
    let bench = Bench::new();
    fs::write(bench.path("data"), vec![7; 1 << 20]).unwrap();
    bench.ok(["cp", "data", "t.img:/a"]);
    bench.ok(["ln", "t.img:/a", "t.img:/b"]);
    assert_eq!(bench.ok(["du", "t.img"]), "1024\tt.img:/\n");
    assert_eq!(
        bench.ok(["du", "-sh", "t.img:/a", "t.img:/b"]),
        "1.0M\tt.img:/a\n0\tt.img:/b\n"
    );
    let json = bench.json(["df", "--json", "t.img"]);
    let image = &json["images"][0];
    let used = image["blocks"].as_u64().unwrap() - image["blocks_free"].as_u64().unwrap();
    assert!((256..300).contains(&used), "{used}");
}

#[test]
fn names_are_made_moved_linked_and_removed() {
    let bench = with_tree();
    bench.ok(["mv", "t.img:/etc/passwd", "t.img:/home"]);
    bench.ok(["mv", "t.img:/home/passwd", "t.img:/home/shadow"]);
    bench.ok(["ln", "t.img:/home/shadow", "t.img:/etc"]);
    let nlink = bench.json(["stat", "--json", "t.img:/etc/shadow"])["paths"][0]["nlink"].clone();
    assert_eq!(nlink, 2);
    assert!(
        bench
            .fails(1, ["ln", "-f", "t.img:/home/shadow", "t.img:/home/shadow"])
            .contains("is that file already")
    );
    bench.ok(["mv", "--exchange", "t.img:/etc", "t.img:/home"]);
    assert_eq!(bench.ok(["ls", "t.img:/etc"]), "link\nshadow\n");
    assert!(
        bench
            .fails(1, ["rm", "t.img:/etc"])
            .contains("-r removes it")
    );
    assert!(
        bench
            .fails(1, ["rm", "-d", "t.img:/etc"])
            .contains("not empty")
    );
    bench.ok(["rm", "-r", "t.img:/etc"]);
    bench.ok(["rm", "-f", "t.img:/etc", "t.img:/nothing/at/all"]);
    assert_eq!(bench.ok(["ls", "t.img"]), "home\n");
    assert!(
        bench
            .fails(1, ["rm", "-rf", "t.img:/"])
            .contains("root of an image")
    );
    bench.ok(["mkdir", "-p", "t.img:/home/a/b"]);
    let dots = bench.fails(1, ["rm", "-r", "t.img:/home/a/b/.."]);
    assert!(dots.contains("ends in '..'"), "{dots}");
    bench.ok(["rm", "-r", "t.img:/home/a"]);
    assert!(
        bench
            .fails(1, ["mv", "t.img:/home", "t.img:/home/x"])
            .contains("into itself")
    );
    assert!(
        bench
            .fails(1, ["mkdir", "t.img:/home"])
            .contains("there already")
    );
    bench.ok(["mkdir", "-p", "-m", "0700", "t.img:/home/a/b"]);
    assert_eq!(
        bench.json(["stat", "--json", "t.img:/home/a/b"])["paths"][0]["mode"],
        "0700"
    );
    bench.ok(["check", "t.img"]);
}

#[test]
fn attributes_change_as_asked_also_below() {
    let bench = with_tree();
    let of = |path: &str, key: &str| bench.json(["stat", "--json", path])["paths"][0][key].clone();
    bench.ok(["chmod", "-R", "go=,u=rwX", "t.img:/etc"]);
    assert_eq!(of("t.img:/etc/passwd", "mode"), "0600");
    assert_eq!(of("t.img:/etc/conf.d", "mode"), "0700");
    bench.ok(["chown", "-R", "7:8", "t.img:/home"]);
    assert_eq!(of("t.img:/home/link", "gid"), 8);
    assert_ne!(of("t.img:/etc", "gid"), 8, "a link is not followed");
    bench.ok(["truncate", "-s", "+1M", "t.img:/etc/passwd"]);
    assert_eq!(of("t.img:/etc/passwd", "size"), (1 << 20) + 11);
    bench.ok(["truncate", "-c", "-s", "0", "t.img:/new"]);
    assert!(
        bench
            .fails(1, ["stat", "t.img:/new"])
            .contains("no such path")
    );
    assert!(
        bench
            .fails(1, ["truncate", "-s", "0", "t.img:/etc"])
            .contains("is a directory")
    );
}

#[test]
fn extended_attributes_round_trip() {
    let bench = with_tree();
    let file = "t.img:/etc/passwd";
    bench.ok(["setxattr", file, "user.colour", "green"]);
    bench.ok(["setxattr", "--hex", file, "user.raw", "0x00ff"]);
    assert_eq!(bench.ok(["getxattr", file, "user.colour"]), "green");
    assert_eq!(
        bench.ok(["getxattr", "--hex", file, "user.raw"]),
        "0x00ff\n"
    );
    assert_eq!(bench.ok(["listxattr", file]), "user.colour\nuser.raw\n");
    let json = bench.json(["listxattr", "--json", file]);
    assert_eq!(json["paths"][0]["xattrs"][1]["value_hex"], "00ff");
    bench.ok(["removexattr", file, "user.raw"]);
    assert!(
        bench
            .fails(1, ["getxattr", file, "user.raw"])
            .contains("has no attribute")
    );
    assert!(
        bench
            .fails(1, ["setxattr", "--create", file, "user.colour", "x"])
            .contains("exists")
    );
    assert!(
        bench
            .fails(1, ["setxattr", file, "colour", "x"])
            .contains("namespace")
    );
    assert!(
        bench
            .fails(2, ["setxattr", "--hex", file, "user.x", "0"])
            .contains("hexadecimal")
    );
}

#[test]
fn map_shows_extents_and_holes() {
    let bench = Bench::new();
    let path = bench.path("sparse");
    let file = fs::File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 8192], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    bench.ok(["cp", "sparse", "t.img:/"]);
    let json = bench.json(["map", "--json", "t.img:/sparse"]);
    let extents = json["files"][0]["extents"].as_array().unwrap();
    assert_eq!(extents.len(), 1);
    assert_eq!(
        (extents[0]["offset"].as_u64(), extents[0]["length"].as_u64()),
        (Some(1 << 20), Some(8192))
    );
    let text = bench.ok(["map", "--ascii", "t.img:/sparse"]);
    assert_eq!(text.matches(" hole\n").count(), 2, "{text}");
    assert!(
        text.lines()
            .any(|line| line.trim_start().starts_with("file") && line.contains('#')),
        "{text}"
    );
    bench.ok(["cp", "t.img:/sparse", "t.img:/again"]);
    assert!(
        bench.ok(["map", "t.img:/again"]).contains("shared"),
        "a copy within an image shares"
    );
    assert!(bench.fails(1, ["map", "t.img:/"]).contains("no extents"));
}

#[test]
fn check_has_the_exit_codes_of_fsck() {
    let bench = with_tree();
    assert!(bench.ok(["check", "t.img"]).contains("clean"));
    assert_eq!(bench.json(["check", "--json", "t.img"])["clean"], true);
    fs::write(bench.path("letter"), "x").unwrap();
    bench.fails(8, ["check", "letter"]);
    bench.fails(8, ["check", "nothing.img"]);
    bench.fails(16, ["check"]);
    bench.fails(16, ["check", "-t", "ntfs", "t.img"]);
    // Damage: one bit of every block behind the superblocks that is not zero.
    let mut image = fs::read(bench.path("t.img")).unwrap();
    let damaged = image
        .chunks_mut(4096)
        .skip(32)
        .filter(|b| b.iter().any(|x| *x != 0));
    damaged.for_each(|block| block[0] ^= 1);
    fs::write(bench.path("t.img"), image).unwrap();
    let output = bench.run(["check", "t.img"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("NOT CLEAN"));
    let message = bench.fails(1, ["ls", "t.img"]);
    assert!(message.contains("iomapfs check"), "{message}");
}

#[test]
fn every_typo_is_told_what_was_meant() {
    let bench = with_tree();
    for (args, hint) in [
        (&["lst", "t.img"][..], "'ls'"),
        (&["ls", "t.img:etc"], "t.img:/etc"),
        (&["ls", "t.img/etc"], "t.img:/etc"),
        (&["ls", "tt.img:/etc"], "there is t.img"),
        (&["ls", "t.img:/etcc"], "did you mean 'etc'"),
        (&["ls", "t.img:/etc/pass/x"], "did you mean 'passwd'"),
        (
            &["ls", "t.img:/etc/passwd/x"],
            "'passwd' is not a directory",
        ),
        (&["ls", "."], "is a directory, not an image"),
        (&["ls", "passwd"], "it looks like text"),
        (&["cat", "t.img"], "t.img:/path"),
        (&["cat"], "required"),
        (&["ls", "--lnog", "t.img"], "--long"),
        (&["mkfs", "-t", "testfs", "n.img", "--size", "1X"], "16M"),
        (&["chmod", "rw", "t.img:/etc"], "0755"),
        (&["chown", "root", "t.img:/etc"], "number"),
        (&["mv", "t.img:/etc", "elsewhere"], "use cp"),
        (&["cp", "passwd"], "destination is missing"),
        (&["cp", "passwd", "copy"], "neither"),
        (&["cp", "t.img/etc/passwd", "."], "t.img:/etc/passwd"),
        (&["cp", "etc", "t.img:/"], "no such file"),
        (&["man", "lss"], "did you mean 'ls'"),
        (&["man", "nonsense"], "--help"),
        (&["mkdir", "t.img:/new/below"], "-p makes"),
        (
            &["mkfs", "-t", "testfs", "no/n.img", "--size", "1M"],
            "no directory no",
        ),
        (&["mkfs", "-t", "testfs", "n.img", "--size", "10"], "512"),
        (
            &["mkfs", "-t", "testfs", "n.img", "--size", "9999999T"],
            "the size",
        ),
        (&["stats", ".", "-i", "0"], "1 or more"),
    ] {
        let output = bench.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{args:?}: {said}"
        );
        assert!(said.contains(hint), "{args:?}: {said}");
        assert!(
            !said.contains("os error") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
    assert!(!bench.path("n.img").exists());
}

#[test]
fn an_image_in_use_is_refused_to_writers_and_shared_by_readers() {
    let bench = with_tree();
    let file = fs::File::open(bench.path("t.img")).unwrap();
    file.lock_shared().unwrap();
    bench.ok(["ls", "t.img"]);
    assert!(
        bench
            .fails(1, ["mkdir", "t.img:/x"])
            .contains("in use by another program")
    );
    file.unlock().unwrap();
    file.lock().unwrap();
    let said = bench.fails(1, ["ls", "t.img"]);
    assert!(said.contains("in use") && said.contains("hint"), "{said}");
    bench.fails(8, ["check", "t.img"]);
    assert!(
        bench
            .fails(1, ["mkfs", "--force", "-t", "testfs", "t.img"])
            .contains("in use")
    );
}

#[test]
fn reading_changes_no_byte_of_the_image() {
    let bench = with_tree();
    let before = fs::read(bench.path("t.img")).unwrap();
    bench.ok(["tree", "t.img"]);
    bench.ok(["cat", "t.img:/etc/passwd"]);
    bench.ok(["cp", "-r", "t.img:/", "out"]);
    bench.ok(["check", "t.img"]);
    assert!(fs::read(bench.path("t.img")).unwrap() == before);
}

#[test]
fn colours_come_only_when_they_are_asked_for() {
    let bench = with_tree();
    assert!(!bench.ok(["ls", "t.img"]).contains('\x1b'));
    assert!(
        bench
            .ok(["ls", "--color", "always", "t.img"])
            .contains('\x1b')
    );
    let mut command = bench.command(["ls", "t.img"]);
    let output = command
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!output.stdout.contains(&b'\x1b'));
}

#[test]
fn completions_and_man_pages_are_made_for_every_verb() {
    let bench = Bench::empty();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            bench.ok(["completions", shell]).contains("truncate"),
            "{shell}"
        );
    }
    assert!(bench.ok(["man"]).contains(".SH"));
    assert!(bench.ok(["man", "cp"]).contains("no\\-preserve"));
    fs::create_dir(bench.path("man")).unwrap();
    bench.ok(["man", "--all", "man"]);
    for verb in ["iomapfs.1", "iomapfs-cp.1", "iomapfs-check.1"] {
        assert!(bench.path("man").join(verb).exists(), "{verb}");
    }
}

#[test]
fn a_host_file_with_a_colon_is_a_host_file_and_links_of_the_host_work() {
    let bench = Bench::new();
    fs::create_dir(bench.path("odd:")).unwrap();
    fs::write(bench.path("odd:/file"), "x").unwrap();
    bench.ok(["cp", "odd:/file", "t.img:/f"]);
    symlink("t.img", bench.path("alias")).unwrap();
    bench.ok(["cp", "t.img:/f", "alias:/g"]);
    assert_eq!(bench.ok(["ls", "alias"]), "f\ng\n");
}
