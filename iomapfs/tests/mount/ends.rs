//! How a mount ends: by umount, by a signal, by a crash.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Bed, Scenario, until};

pub(super) const SCENARIOS: &[Scenario] = &[
    ("a_signal_writes_everything_and_unmounts", signalled),
    ("a_signal_to_a_busy_mount_waits_for_those_who_use_it", busy),
    (
        "a_second_signal_ends_at_once_and_nothing_synced_is_lost",
        twice,
    ),
    (
        "umount_of_a_busy_mount_is_refused_and_nothing_is_lost",
        refused,
    ),
    ("a_server_that_is_killed_leaves_no_dead_mount_point", killed),
    ("watching_counters_ends_with_the_mount", watched),
];

/// A server in the foreground, whose mount is live.
fn foreground(bed: &Bed) -> Child {
    let mut command = bed.bench.command(["mount", "t.img", "mnt", "-f"]);
    let server = command.stderr(Stdio::piped()).spawn().unwrap();
    until("mounted", || bed.is_mounted());
    server
}

fn signal(server: &Child, signal: Signal) {
    let pid = Pid::from_child(server);
    kill_process(pid, signal).unwrap();
}

fn signalled(bed: &Bed) {
    for number in [Signal::TERM, Signal::INT, Signal::HUP] {
        let server = foreground(bed);
        fs::write(bed.at("f"), format!("{number:?}")).unwrap();
        signal(&server, number);
        let output = server.wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && log.contains("unmounted, clean"),
            "{log}"
        );
        assert!(!log.contains('\x1b'), "no colours in a pipe: {log}");
        assert!(!bed.is_mounted());
        bed.wait_for_image();
        assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), format!("{number:?}"));
    }
}

fn busy(bed: &Bed) {
    let server = foreground(bed);
    let mut file = fs::File::create(bed.at("f")).unwrap();
    file.write_all(b"before").unwrap();
    signal(&server, Signal::TERM);
    until("the mount point is free", || !bed.is_mounted());
    file.write_all(b" and after").unwrap();
    drop(file);
    let output = server.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    bed.wait_for_image();
    assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), "before and after");
}

fn twice(bed: &Bed) {
    let server = foreground(bed);
    let mut file = fs::File::create(bed.at("f")).unwrap();
    file.write_all(b"written").unwrap();
    signal(&server, Signal::TERM);
    until("the mount point is free", || !bed.is_mounted());
    signal(&server, Signal::TERM);
    let output = server.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    drop(file);
    bed.wait_for_image();
    assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), "written");
}

fn refused(bed: &Bed) {
    bed.mounted(&[]);
    let mut file = fs::File::create(bed.at("f")).unwrap();
    assert!(!bed.try_unmount());
    file.write_all(b"still there").unwrap();
    drop(file);
    // The kernel closes the file behind our back.
    until("not busy any more", || bed.try_unmount());
    bed.wait_for_image();
    assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), "still there");
}

fn killed(bed: &Bed) {
    let mut server = foreground(bed);
    let file = fs::File::create(bed.at("f")).unwrap();
    (&file).write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    fs::write(bed.at("g"), "perhaps").unwrap();
    signal(&server, Signal::KILL);
    let status = server.wait().unwrap();
    assert_eq!(status.signal(), Some(9));
    until("the mount point is free", || !bed.is_mounted());
    assert_eq!(
        fs::read_dir(bed.at("")).unwrap().count(),
        0,
        "the directory below"
    );
    bed.wait_for_image();
    assert_eq!(bed.bench.ok(["cat", "t.img:/f"]), "synced");
    bed.mounted(&[]);
    bed.unmount();
}

fn watched(bed: &Bed) {
    bed.mounted(&[]);
    let mut command = bed.bench.command(["stats", "-w", "mnt"]);
    let watcher = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("unmounted: it holds nothing open", || bed.try_unmount());
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no image is mounted there"));
    bed.wait_for_image();
}
