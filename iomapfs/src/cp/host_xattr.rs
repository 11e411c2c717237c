//! Extended attributes of a file of the host, all at once.
//!
//! Owns the buffers and what may be left out. Which system calls list and get is the caller's.

use rustix::io::Errno;

use super::side::{Io, Trouble, Xattrs};

/// Longest list of attribute names, and longest value, that Linux has.
const XATTR_MAX: usize = 64 << 10;

/// What `list` names and `get` gives.
pub(super) fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Io<Xattrs> {
    // Most files have none: one call with a small buffer tells.
    let mut names = vec![0; 512];
    let len = match list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            names.resize(XATTR_MAX, 0);
            list(&mut names)?
        }
        other => other?,
    };
    let mut value = vec![0; XATTR_MAX];
    let mut found = Vec::new();
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        match get(name, &mut value) {
            Ok(len) => found.push((name.to_vec(), value[..len].to_vec())),
            // Went away, or is not ours to read: the latter is the kernel's policy, not a loss.
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Trouble::from(errno).during("extended attributes")),
        }
    }
    Ok(found)
}
