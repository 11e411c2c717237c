//! Copying: what comes back is what went in, things go where cp(1) puts them, and a hostile image
//! writes nothing but the destination.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use common::Bench;

mod tree;

use tree::{compare, generate};

fn round_trip(seed: u64) {
    let bench = Bench::new();
    let source = bench.path("source");
    generate(&source, seed, true);
    bench.ok(["cp", "-r", "source/.", "t.img:/"]);
    assert!(bench.ok(["check", "t.img"]).contains("clean"));
    bench.ok(["cp", "-r", "t.img:/.", "back"]);
    compare(&source, &bench.path("back"));
    // From image to image as well.
    bench.ok([
        "mkfs", "-t", "testfs", "u.img", "--size", "256M", "-b", "1K",
    ]);
    bench.ok(["cp", "-r", "t.img:/.", "u.img:/"]);
    assert!(bench.ok(["check", "u.img"]).contains("clean"));
    bench.ok(["cp", "-r", "u.img:/.", "again"]);
    compare(&source, &bench.path("again"));
}

#[test]
fn a_tree_comes_back_as_it_was() {
    round_trip(1);
}

#[test]
fn another_tree_comes_back_as_it_was() {
    round_trip(2);
}

#[test]
fn a_tree_comes_back_as_it_was_with_one_worker() {
    let bench = Bench::new();
    let source = bench.path("source");
    generate(&source, 3, true);
    bench.ok(["cp", "-r", "-j", "1", "source", "t.img:/"]);
    bench.ok(["cp", "-r", "-j", "1", "t.img:/source", "back"]);
    compare(&source, &bench.path("back"));
}

#[test]
fn a_user_without_privileges_gets_everything_but_owners() {
    let bench = Bench::empty();
    let program = bench.path("program");
    fs::copy(env!("CARGO_BIN_EXE_iomapfs"), &program).unwrap();
    fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let root = rustix::process::geteuid().is_root();
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(bench.path("")).args(args);
        if root {
            std::os::unix::process::CommandExt::uid(&mut command, 65534);
            std::os::unix::process::CommandExt::gid(&mut command, 65534);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && said.is_empty(),
            "{args:?}: {said}"
        );
    };
    let source = bench.path("source");
    generate(&source, 4, false);
    run(&["mkfs", "-t", "testfs", "t.img", "--size", "128M"]);
    run(&["cp", "-r", "--owner", "0:0", "source/.", "t.img:/"]);
    let owner = bench.json(["stat", "--json", "t.img:/plain"]);
    assert_eq!(owner["paths"][0]["uid"], 0, "any owner, without privileges");
    run(&["chmod", "4755", "t.img:/plain"]);
    run(&["cp", "-r", "t.img:/.", "back"]);
    let back = fs::symlink_metadata(bench.path("back/plain")).unwrap();
    if root {
        assert_eq!(
            (back.uid(), back.mode() & 0o7777),
            (65534, 0o755),
            "no set-id bit for another owner"
        );
    }
    fs::set_permissions(
        bench.path("back/plain"),
        source.join("plain").metadata().unwrap().permissions(),
    )
    .unwrap();
    compare(&source, &bench.path("back"));
}

#[test]
fn copies_go_where_cp_puts_them() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("d/sub")).unwrap();
    fs::write(bench.path("d/sub/f"), "1").unwrap();
    fs::write(bench.path("x"), "2").unwrap();
    let names = |path: &str| bench.ok(["ls", path]).replace('\n', " ");
    bench.ok(["cp", "-r", "d", "t.img:/new"]);
    assert_eq!(names("t.img:/new"), "sub ");
    bench.ok(["cp", "-r", "d", "t.img:/new"]);
    assert_eq!(
        names("t.img:/new"),
        "d sub ",
        "into a directory that is there"
    );
    bench.ok(["cp", "-rT", "d", "t.img:/new"]);
    assert_eq!(names("t.img:/new"), "d sub ", "-T: over it");
    bench.ok(["cp", "-r", "d/.", "t.img:/new"]);
    assert_eq!(names("t.img:/new"), "d sub ", "what is in it");
    bench.ok(["cp", "x", "d/sub/f", "t.img:/new/"]);
    assert_eq!(names("t.img:/new"), "d f sub x ");
    bench.ok(["cp", "--target-directory", "t.img:/", "x"]);
    assert_eq!(names("t.img:/"), "new x ");
    assert!(
        bench
            .fails(1, ["cp", "x", "t.img:/none/"])
            .contains("no such directory")
    );
    assert!(
        bench
            .fails(1, ["cp", "x", "d/sub/f", "t.img:/none"])
            .contains("no such directory")
    );
    assert!(
        bench
            .fails(1, ["cp", "x", "d/sub/f", "t.img:/x"])
            .contains("no directory")
    );
    assert!(
        bench
            .fails(1, ["cp", "d", "t.img:/y"])
            .contains("-r copies it")
    );
    assert!(
        bench
            .fails(1, ["cp", "x", "t.img:/none/x"])
            .contains("no such path")
    );
    // And the same on the way out.
    bench.ok(["cp", "-r", "t.img:/new", "out"]);
    bench.ok(["cp", "-r", "t.img:/new/sub", "out"]);
    assert!(bench.path("out/sub/f").exists());
    bench.ok(["cp", "t.img:/x", "out/y"]);
    assert_eq!(fs::read(bench.path("out/y")).unwrap(), b"2");
    assert!(
        bench
            .fails(1, ["cp", "t.img:/x", "nowhere/"])
            .contains("no such directory")
    );
    assert!(
        bench
            .fails(1, ["cp", "t.img:/x", "no/where"])
            .contains("no: no such file")
    );
}

#[test]
fn what_is_in_the_way_is_replaced_or_told() {
    let bench = Bench::new();
    fs::write(bench.path("f"), "new").unwrap();
    symlink("nowhere", bench.path("l")).unwrap();
    fs::create_dir(bench.path("d")).unwrap();
    bench.ok(["mkdir", "t.img:/d"]);
    bench.ok(["ln", "-s", "d", "t.img:/l"]);
    bench.ok(["truncate", "-s", "100", "t.img:/f"]);
    bench.ok(["cp", "-n", "f", "t.img:/f"]);
    assert_eq!(
        bench.json(["stat", "--json", "t.img:/f"])["paths"][0]["size"],
        100,
        "-n"
    );
    bench.ok(["cp", "f", "t.img:/f"]);
    assert_eq!(bench.ok(["cat", "t.img:/f"]), "new");
    bench.ok(["cp", "-PT", "l", "t.img:/l"]);
    assert!(bench.ok(["ls", "-l", "t.img:/l"]).contains("-> nowhere"));
    assert!(
        bench
            .fails(1, ["cp", "-T", "f", "t.img:/d"])
            .contains("a directory is in the way")
    );
    assert!(
        bench
            .fails(1, ["cp", "-rT", "d", "t.img:/f"])
            .contains("is no directory")
    );
    assert!(
        bench
            .fails(1, ["cp", "t.img:/f", "t.img:/f"])
            .contains("is the same file")
    );
    assert!(
        bench
            .fails(1, ["cp", "-r", "t.img:/d", "t.img:/d/e"])
            .contains("into itself")
    );
    assert!(
        bench
            .fails(1, ["cp", "-r", "t.img:/", "t.img:/d"])
            .contains("into itself")
    );
}

#[test]
fn links_are_followed_when_asked() {
    let bench = Bench::new();
    fs::create_dir(bench.path("d")).unwrap();
    fs::write(bench.path("d/f"), "x").unwrap();
    symlink("d", bench.path("l")).unwrap();
    symlink("f", bench.path("d/g")).unwrap();
    symlink("..", bench.path("d/loop")).unwrap();
    bench.ok(["cp", "d/g", "t.img:/plain"]);
    assert_eq!(
        bench.ok(["cat", "t.img:/plain"]),
        "x",
        "without -r a link is followed"
    );
    bench.ok(["cp", "-r", "l", "t.img:/l"]);
    assert!(
        bench.ok(["ls", "-ld", "t.img:/l"]).starts_with('l'),
        "with -r it is not"
    );
    bench.ok(["cp", "-rH", "l", "t.img:/h"]);
    assert!(bench.ok(["ls", "-l", "t.img:/h"]).contains("g -> f"));
    let said = bench.fails(1, ["cp", "-rL", "d", "t.img:/all"]);
    assert!(said.contains("loop") || said.contains("itself"), "{said}");
    assert_eq!(bench.ok(["cat", "t.img:/all/g"]), "x");
    bench.ok(["rm", "-r", "t.img:/all/loop"]);
    bench.ok(["cp", "-rL", "t.img:/h/g", "t.img:/h/f", "d"]);
    assert!(
        !fs::symlink_metadata(bench.path("d/g"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn errors_are_told_and_the_rest_is_copied() {
    let bench = Bench::new();
    fs::write(bench.path("a"), "1").unwrap();
    fs::write(bench.path("b"), "2").unwrap();
    let said = bench.fails(1, ["cp", "a", "missing", "b", "t.img:/"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("missing: no such file or directory"),
        "{said}"
    );
    assert_eq!(bench.ok(["ls", "t.img"]), "a\nb\n");
    let output = bench.run(["cp", "--json", "a", "missing", "t.img:/"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (json["files"].as_u64(), json["errors"].as_u64()),
        (Some(1), Some(1))
    );
    assert!(json["messages"][0].as_str().unwrap().contains("missing"));
}

#[test]
fn a_full_image_is_an_error_and_stays_clean() {
    let bench = Bench::empty();
    bench.ok(["mkfs", "-t", "testfs", "s.img", "--size", "4M"]);
    fs::write(bench.path("big"), vec![1; 6 << 20]).unwrap();
    fs::write(bench.path("small"), "x").unwrap();
    let said = bench.fails(1, ["cp", "small", "big", "s.img:/"]);
    assert!(said.contains("big: no space left"), "{said}");
    assert!(bench.ok(["check", "s.img"]).contains("clean"));
    assert_eq!(bench.ok(["cat", "s.img:/small"]), "x");
}

#[test]
fn an_image_is_not_copied_into_itself_nor_overwritten() {
    let bench = Bench::new();
    fs::write(bench.path("f"), "x").unwrap();
    let output = bench.run(["cp", "-r", ".", "t.img:/all"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("it is the image itself"),
        "{said}"
    );
    assert_eq!(bench.ok(["ls", "t.img:/all"]), "f\n");
    assert!(
        bench
            .fails(1, ["cp", "t.img:/all/f", "t.img"])
            .contains("in use")
    );
    assert!(bench.ok(["check", "t.img"]).contains("clean"));
}

#[test]
fn owners_are_mapped() {
    let bench = Bench::new();
    fs::write(bench.path("f"), "x").unwrap();
    let me = rustix::process::geteuid().as_raw();
    let owner = |path: &str| {
        let found = bench.json(["stat", "--json", path]);
        (
            found["paths"][0]["uid"].as_u64().unwrap(),
            found["paths"][0]["gid"].as_u64().unwrap(),
        )
    };
    bench.ok(["cp", "--owner", "5:6", "f", "t.img:/a"]);
    assert_eq!(owner("t.img:/a"), (5, 6));
    bench.ok(["cp", "--map-owner", &format!("{me}=77"), "f", "t.img:/b"]);
    assert_eq!(owner("t.img:/b").0, 77);
    bench.ok(["cp", "t.img:/a", "t.img:/c"]);
    assert_eq!(owner("t.img:/c"), (5, 6));
    bench.ok([
        "cp",
        "--no-preserve",
        "owner,times,mode",
        "t.img:/a",
        "t.img:/d",
    ]);
    assert_eq!(owner("t.img:/d").0, u64::from(me));
}

/// Two steps: an image plants a link, then another one writes through it.
#[test]
fn a_hostile_image_cannot_write_through_a_link_it_planted() {
    let bench = Bench::new();
    let victim = bench.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("f"), "safe").unwrap();
    let target = victim.to_str().unwrap();
    bench.ok(["mkdir", "t.img:/one", "t.img:/two", "t.img:/two/dir"]);
    bench.ok(["ln", "-s", target, "t.img:/one/dir"]);
    bench.ok(["ln", "-s", &format!("{target}/f"), "t.img:/one/f"]);
    fs::write(bench.path("evil"), "evil").unwrap();
    bench.ok(["cp", "evil", "t.img:/two/f"]);
    bench.ok(["cp", "evil", "t.img:/two/dir/f"]);
    bench.ok(["cp", "-r", "t.img:/one/.", "out"]);
    let said = bench.fails(1, ["cp", "-r", "t.img:/two/.", "out"]);
    assert!(said.contains("in the way"), "{said}");
    assert_eq!(fs::read(victim.join("f")).unwrap(), b"safe");
    assert_eq!(
        fs::read(bench.path("out/f")).unwrap(),
        b"evil",
        "the link was replaced, not followed"
    );
}

#[test]
fn device_nodes_leave_an_image_only_on_request() {
    let bench = Bench::new();
    if !rustix::process::geteuid().is_root() {
        // Only root can make one to copy in.
        return;
    }
    let made = Command::new("mknod")
        .arg(bench.path("null"))
        .args(["c", "1", "3"])
        .status();
    if !made.unwrap().success() {
        return;
    }
    bench.ok(["cp", "-r", "null", "t.img:/"]);
    assert!(
        bench
            .fails(1, ["cp", "-r", "t.img:/null", "out"])
            .contains("--devices")
    );
    assert!(!bench.path("out").exists());
    bench.ok(["cp", "-r", "--devices", "t.img:/null", "out"]);
    assert_eq!(
        fs::metadata(bench.path("out")).unwrap().rdev(),
        rustix::fs::makedev(1, 3)
    );
}

#[test]
fn progress_stays_away_from_pipes_and_verbose_tells_each() {
    let bench = Bench::new();
    fs::write(bench.path("f"), vec![1; 1 << 20]).unwrap();
    assert_eq!(bench.ok(["cp", "f", "t.img:/"]), "");
    assert_eq!(bench.ok(["cp", "-v", "t.img:/f", "g"]), "t.img:/f -> g\n");
}

#[test]
fn holes_are_kept_or_filled_as_asked() {
    let bench = Bench::new();
    let file = fs::File::create(bench.path("s")).unwrap();
    file.write_all_at(b"x", 4 << 20).unwrap();
    file.set_len(16 << 20).unwrap();
    let blocks = |path: &str| {
        bench.json(["stat", "--json", path])["paths"][0]["blocks"]
            .as_u64()
            .unwrap()
    };
    bench.ok(["cp", "s", "t.img:/a"]);
    assert_eq!(blocks("t.img:/a"), 8);
    bench.ok(["cp", "--no-preserve", "holes", "s", "t.img:/b"]);
    assert_eq!(blocks("t.img:/b"), 32 << 10);
    // Onto something longer: what was there before is gone.
    bench.ok(["cp", "t.img:/b", "t.img:/c"]);
    bench.ok(["cp", "s", "t.img:/c"]);
    bench.ok(["cp", "t.img:/c", "back"]);
    assert!(fs::read(bench.path("back")).unwrap() == fs::read(bench.path("s")).unwrap());
}
