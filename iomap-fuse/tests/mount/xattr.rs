//! Extended attributes, the size probe included.

use std::fs::{self, File};

use rustix::fs::{
    XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr,
};
use rustix::io::Errno;

use crate::Scenario;
use crate::bed::Bed;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "xattrs_are_set_read_listed_and_removed",
        set_read_list_remove,
    ),
    ("xattr_sizes_can_be_asked_for", size_probe),
    ("xattrs_of_directories_and_large_values", large_values),
];

fn set_read_list_remove(bed: &Bed) {
    let path = bed.path("f");
    File::create(&path).unwrap();
    let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
    assert_eq!(set("user.a", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set("user.a", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
    set("user.a", b"22", XattrFlags::REPLACE).unwrap();
    set("trusted.b", b"", XattrFlags::empty()).unwrap();
    assert_eq!(
        set("system.nonsense", b"x", XattrFlags::empty()),
        Err(Errno::OPNOTSUPP)
    );
    let mut value = [0; 10];
    assert_eq!(getxattr(&path, "user.a", &mut value), Ok(2));
    assert_eq!(&value[..2], b"22");
    let mut list = [0; 100];
    let len = listxattr(&path, &mut list).unwrap();
    let mut names: Vec<_> = list[..len]
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .collect();
    names.sort();
    assert_eq!(names, [&b"trusted.b"[..], b"user.a"]);
    removexattr(&path, "user.a").unwrap();
    assert_eq!(removexattr(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(getxattr(&path, "user.a", &mut value), Err(Errno::NODATA));
}

fn size_probe(bed: &Bed) {
    let path = bed.path("f");
    File::create(&path).unwrap();
    setxattr(&path, "user.name", b"12345", XattrFlags::empty()).unwrap();
    assert_eq!(getxattr_query(&path, "user.name"), Ok(5));
    assert_eq!(getxattr(&path, "user.name", &mut [0; 4]), Err(Errno::RANGE));
    assert_eq!(listxattr_query(&path), Ok(10));
    assert_eq!(listxattr(&path, &mut [0; 9]), Err(Errno::RANGE));
}

fn large_values(bed: &Bed) {
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    let value: Vec<u8> = (0..3000_u32).map(|i| i as u8).collect();
    setxattr(&dir, "user.large", &value, XattrFlags::empty()).unwrap();
    let mut back = vec![0; 3000];
    assert_eq!(getxattr(&dir, "user.large", &mut back), Ok(3000));
    assert_eq!(back, value);
    let huge = setxattr(&dir, "user.huge", &[0; 65_537], XattrFlags::empty());
    assert_eq!(huge, Err(Errno::TOOBIG));
}
