//! How a mount begins: options, locks, errors, and what can be seen then.

use std::fs;

use super::{Bed, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    ("what_is_written_through_a_mount_is_in_the_image", written),
    ("an_image_that_is_mounted_is_refused_to_others", locked),
    ("options_reach_the_kernel", options),
    ("mount_helpers_speak_the_language_of_mount", helpers),
    (
        "what_cannot_be_mounted_is_told_with_the_codes_of_mount",
        refused,
    ),
    ("counters_are_live_under_both_cache_policies", counters),
    ("a_read_only_mount_shares_the_image_with_readers", shared),
];

fn written(bed: &Bed) {
    bed.mounted(&[]);
    fs::write(bed.at("f"), "through the mount").unwrap();
    fs::create_dir(bed.at("d")).unwrap();
    bed.unmount();
    assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), "through the mount");
    bed.bench.ok(["mv", "t.img:/f", "t.img:/d/g"]);
    bed.mounted(&["-o", "cache=kernel,rw,noatime"]);
    assert_eq!(fs::read(bed.at("d/g")).unwrap(), b"through the mount");
    bed.unmount();
}

fn locked(bed: &Bed) {
    bed.mounted(&[]);
    for args in [&["ls", "t.img"][..], &["mkdir", "t.img:/x"]] {
        assert!(
            bed.bench
                .fails(1, args)
                .contains("in use by another program"),
            "{args:?}"
        );
    }
    fs::create_dir(bed.bench.path("other")).unwrap();
    assert!(
        bed.bench
            .fails(32, ["mount", "t.img", "other"])
            .contains("in use")
    );
    bed.unmount();
    bed.bench.ok(["ls", "t.img"]);
}

fn options(bed: &Bed) {
    bed.mounted(&["-o", "ro,noexec,nosuid", "-o", "fsname=my-image"]);
    let line = bed.line().unwrap();
    for word in [
        "my-image ",
        "ro,",
        "noexec",
        "nosuid",
        "nodev",
        "default_permissions",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let error = fs::write(bed.at("f"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    bed.unmount();
    bed.mounted(&[]);
    let image = bed.bench.path("t.img").canonicalize().unwrap();
    assert!(bed.line().unwrap().starts_with(image.to_str().unwrap()));
    bed.unmount();
}

fn helpers(bed: &Bed) {
    for (name, args) in [
        (
            "mount.iomapfs",
            &[
                "t.img",
                "mnt",
                "-o",
                "rw,noatime,user_xattr,acl,x-gvfs-hide",
            ][..],
        ),
        (
            "/sbin/mount.fuse.iomapfs",
            &["t.img", "mnt", "-n", "-v", "-t", "fuse.iomapfs"],
        ),
        (
            "mount.iomapfs",
            &["t.img", "mnt", "-sn", "-o", "data=ordered,ro"],
        ),
        ("iomapfs", &["./t.img", "mnt", "-o", "rw,nodev"]),
    ] {
        let output = bed.helper(name, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{args:?}: {said}"
        );
        assert!(bed.is_mounted(), "{args:?}");
        bed.unmount();
    }
    let code = |args: &[&str]| bed.helper("mount.iomapfs", args).status.code();
    assert_eq!(
        code(&["t.img", "mnt", "-f"]),
        Some(0),
        "-f of mount(8) mounts nothing"
    );
    assert!(!bed.is_mounted());
    assert_eq!(code(&["t.img"]), Some(1));
    assert_eq!(code(&["t.img", "mnt", "-o", "data=ordered"]), Some(1));
    assert_eq!(code(&["none.img", "mnt"]), Some(32));
}

fn refused(bed: &Bed) {
    fs::write(bed.bench.path("letter"), "Dear Sir,").unwrap();
    for (code, args, words) in [
        (32, &["mount", "none.img", "mnt"][..], "no such file"),
        (32, &["mount", "letter", "mnt"], "not an image"),
        (
            32,
            &["mount", "t.img", "nowhere"],
            "mount point nowhere: no such file",
        ),
        (32, &["mount", "t.img", "letter"], "is not a directory"),
        (
            1,
            &["mount", "t.img", "mnt", "-o", "allow_othr"],
            "allow_other",
        ),
        (
            1,
            &["mount", "t.img", "mnt", "-o", "remount,rw"],
            "mount it again",
        ),
        (1, &["mount", "t.img"], "required"),
        (1, &["stats", "mnt"], "no image is mounted there"),
        (1, &["stats", "nowhere"], "no such file"),
    ] {
        let said = bed.bench.fails(code, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(!bed.is_mounted());
    bed.bench.ok(["mkdir", "t.img:/free"]);
}

fn counters(bed: &Bed) {
    for policy in ["cache=user", "cache=kernel"] {
        bed.mounted(&["-o", policy]);
        let syncs = || {
            let told = bed.bench.json(["stats", "--json", "mnt"]);
            told["counters"]["syncs"].as_u64().unwrap()
        };
        let before = syncs();
        let file = fs::File::create(bed.at("f")).unwrap();
        file.sync_all().unwrap();
        assert!(syncs() > before, "{policy}");
        assert!(
            fs::read_to_string(bed.at(".iomapfs/stats"))
                .unwrap()
                .contains("\nnr_dirty ")
        );
        assert!(bed.bench.ok(["stats", "mnt"]).contains("cache_hits"));
        let names: Vec<_> = fs::read_dir(bed.at(""))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["f"], "the folder is hidden");
        assert!(fs::remove_file(bed.at(".iomapfs/stats")).is_err());
        drop(file);
        bed.unmount();
    }
}

fn shared(bed: &Bed) {
    bed.bench.ok(["mkdir", "t.img:/d"]);
    let before = fs::read(bed.bench.path("t.img")).unwrap();
    bed.mounted(&["-o", "ro"]);
    assert_eq!(bed.bench.ok(["ls", "t.img"]), "d\n");
    assert!(bed.bench.fails(1, ["mkdir", "t.img:/e"]).contains("in use"));
    bed.unmount();
    assert!(fs::read(bed.bench.path("t.img")).unwrap() == before);
}
