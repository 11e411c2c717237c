//! Files are made, written, read, renamed and removed.

use std::fs;

use crate::Scenario;
use crate::bed::Bed;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("what_is_written_is_read", what_is_written_is_read),
    (
        "a_tree_is_made_listed_and_removed",
        a_tree_is_made_listed_and_removed,
    ),
];

fn what_is_written_is_read(bed: &Bed) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(bed.path("file"), &bytes).unwrap();
    assert_eq!(fs::read(bed.path("file")).unwrap(), bytes);
    fs::write(bed.path("file"), b"short").unwrap();
    assert_eq!(fs::read(bed.path("file")).unwrap(), b"short");
}

fn a_tree_is_made_listed_and_removed(bed: &Bed) {
    fs::create_dir_all(bed.path("a/b/c")).unwrap();
    for i in 0..300 {
        fs::write(bed.path(format!("a/b/{i}")), format!("{i}")).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(bed.path("a/b"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected: Vec<_> = (0..300)
        .map(|i| i.to_string())
        .chain(["c".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(names, expected);
    fs::rename(bed.path("a/b/7"), bed.path("a/seven")).unwrap();
    assert_eq!(fs::read(bed.path("a/seven")).unwrap(), b"7");
    fs::remove_dir_all(bed.path("a")).unwrap();
    assert_eq!(fs::read_dir(bed.path("")).unwrap().count(), 0);
}
