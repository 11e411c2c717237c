//! Access control lists: kept, enforced, inherited, and in step with modes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use iomap_fuse::MountOptions;
use rustix::fs::{XattrFlags, getxattr, listxattr_query, removexattr, setxattr};
use rustix::io::Errno;

use crate::bed::{Bed, Setup, as_nobody};
use crate::ends::Alone;

pub(crate) const SCENARIOS: &[Alone] = &[
    ("a_list_lets_in_and_keeps_out", enforced),
    ("a_list_and_the_mode_follow_each_other", in_step),
    (
        "a_default_list_is_inherited_in_place_of_the_umask",
        inherited,
    ),
    ("the_umask_is_applied_without_a_default_list", umask_applied),
    ("without_the_option_there_are_no_lists", not_there),
];

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NOBODY: u32 = 65_534;
const NO_ID: u32 = u32::MAX;

/// A list: owner, the user 65534, group, mask, others.
fn list([owner, nobody, group, mask, other]: [u16; 5]) -> Vec<u8> {
    let entries = [
        (0x01, owner, NO_ID),
        (0x02, nobody, NOBODY),
        (0x04, group, NO_ID),
        (0x10, mask, NO_ID),
        (0x20, other, NO_ID),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    setxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 200];
    let len = getxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn with_lists(setup: Setup, scenario: fn(&Bed)) {
    let options = |options: &mut MountOptions| options.acl = true;
    Bed::run_with(setup, options, |bed| {
        fs::set_permissions(bed.path(""), PermissionsExt::from_mode(0o777)).unwrap();
        scenario(bed);
    });
}

fn enforced(setup: Setup) {
    with_lists(setup, |bed| {
        let path = bed.path("f");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let read = || {
            let mut result = None;
            as_nobody(|| result = Some(fs::read_to_string(&path).map_err(|e| e.kind())));
            result.unwrap()
        };
        assert_eq!(read(), Err(ErrorKind::PermissionDenied));
        set(&path, ACCESS, &list([6, 4, 0, 4, 0])).unwrap();
        assert_eq!(read(), Ok("secret".to_owned()));
        bed.forget();
        assert_eq!(
            read(),
            Ok("secret".to_owned()),
            "after the kernel forgot it"
        );
        set(&path, ACCESS, &list([6, 4, 4, 2, 4])).unwrap();
        assert_eq!(read(), Err(ErrorKind::PermissionDenied), "masked");
    });
}

fn in_step(setup: Setup) {
    with_lists(setup, |bed| {
        let path = bed.path("f");
        File::create(&path).unwrap();
        set(&path, ACCESS, &list([7, 6, 5, 6, 1])).unwrap();
        assert_eq!(mode(&path), 0o761);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(get(&path, ACCESS).unwrap(), list([6, 6, 5, 4, 0]));
        bed.forget();
        assert_eq!(get(&path, ACCESS).unwrap(), list([6, 6, 5, 4, 0]));
        assert_eq!(mode(&path), 0o640);
        removexattr(&path, ACCESS).unwrap();
        assert_eq!(get(&path, ACCESS), Err(Errno::NODATA));
        assert_eq!(listxattr_query(&path), Ok(0));
        // Three entries are what a mode says: nothing more is kept.
        let mut plain = list([7, 0, 5, 0, 0]);
        plain.drain(28..36);
        plain.drain(12..20);
        set(&path, ACCESS, &plain).unwrap();
        assert_eq!(mode(&path), 0o750);
        assert_eq!(listxattr_query(&path), Ok(0));
    });
}

fn inherited(setup: Setup) {
    with_lists(setup, |bed| {
        let dir = bed.path("d");
        fs::create_dir(&dir).unwrap();
        let default = list([7, 7, 5, 7, 5]);
        set(&dir, DEFAULT, &default).unwrap();
        assert_eq!(set(&dir.join("../f"), DEFAULT, &default), Err(Errno::NOENT));
        File::create(dir.join("f")).unwrap();
        assert_eq!(mode(&dir.join("f")), 0o664, "no umask");
        assert_eq!(get(&dir.join("f"), ACCESS).unwrap(), list([6, 7, 5, 6, 4]));
        fs::create_dir(dir.join("sub")).unwrap();
        assert_eq!(get(&dir.join("sub"), DEFAULT).unwrap(), default);
        assert_eq!(mode(&dir.join("sub")), 0o775);
        assert_eq!(set(&dir.join("f"), DEFAULT, &default), Err(Errno::ACCESS));
    });
}

fn umask_applied(setup: Setup) {
    with_lists(setup, |bed| {
        // The umask of this process is everybody's.
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 027; : > f; mkdir d"]);
        assert!(shell.current_dir(bed.path("")).status().unwrap().success());
        assert_eq!(mode(&bed.path("f")), 0o640);
        assert_eq!(mode(&bed.path("d")), 0o750);
    });
}

fn not_there(setup: Setup) {
    Bed::run_with(
        setup,
        |_| {},
        |bed| {
            let path = bed.path("f");
            File::create(&path).unwrap();
            let refused = set(&path, ACCESS, &list([7, 6, 5, 6, 1]));
            assert_eq!(refused, Err(Errno::OPNOTSUPP));
            assert_eq!(get(&path, ACCESS), Err(Errno::OPNOTSUPP));
        },
    );
}
