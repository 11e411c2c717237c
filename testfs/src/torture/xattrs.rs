//! Operations on extended attributes.

use iomap_core::vfs::{Ino, Vfs};

use super::names::{both, equal};
use super::op::NameOp;
use super::world::{Fail, World};

/// The bytes of the value with this number.
pub(super) fn value(len: u16, salt: u64) -> Vec<u8> {
    let salt = salt.to_le_bytes()[0];
    (0..len)
        .map(|i| i.to_le_bytes()[0].wrapping_mul(7).wrapping_add(salt) | 1)
        .collect()
}

fn xattr_name(name: u8) -> Vec<u8> {
    format!("user.attribute{name}").into_bytes()
}

/// Does one operation; `salt` varies values.
///
/// # Errors
///
/// The two file systems disagree.
pub(super) fn apply(
    world: &World,
    vfs: &dyn Vfs,
    op: &NameOp,
    (r, m): (Ino, Ino),
    salt: u64,
) -> Result<(), Fail> {
    let reference = &world.model;
    match *op {
        NameOp::SetXattr {
            name, len, mode, ..
        } => {
            let (name, value) = (xattr_name(name), value(len, salt));
            let real = vfs.setxattr(r, &name, &value, mode);
            let model = || reference.setxattr(m, &name, &value, mode);
            both(world, op, real, model).map(|_| ())
        }
        NameOp::GetXattr { name, .. } => {
            let name = xattr_name(name);
            let real = vfs.getxattr(r, &name);
            let got = both(world, op, real, || reference.getxattr(m, &name))?;
            equal(op, got.is_none_or(|(a, b)| a == b), "value")
        }
        NameOp::ListXattr { .. } => {
            let sorted = |mut list: Vec<Vec<u8>>| {
                list.sort();
                list
            };
            let got = both(world, op, vfs.listxattr(r), || reference.listxattr(m))?;
            equal(op, got.is_none_or(|(a, b)| sorted(a) == sorted(b)), "list")
        }
        NameOp::RemoveXattr { name, .. } => {
            let name = xattr_name(name);
            let real = vfs.removexattr(r, &name);
            both(world, op, real, || reference.removexattr(m, &name)).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// Compares all extended attributes of an inode.
///
/// # Errors
///
/// What differs.
pub(super) fn compare(world: &World, vfs: &dyn Vfs, (real, model): (Ino, Ino)) -> Result<(), Fail> {
    let names = world.model.listxattr(model).unwrap_or_default();
    let found = both(world, &("listxattr", real), vfs.listxattr(real), || {
        Ok(names.clone())
    })?;
    if found.is_some_and(|(found, _)| found.len() != names.len()) {
        return Err(Fail::new(format!(
            "inode {}: extended attributes differ",
            real.0
        )));
    }
    for name in names {
        let got = both(
            world,
            &("getxattr", real),
            vfs.getxattr(real, &name),
            || world.model.getxattr(model, &name),
        )?;
        if got.is_some_and(|(a, b)| a != b) {
            return Err(Fail::new(format!(
                "inode {}: extended attribute value differs",
                real.0
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_length_asked_for_and_no_zero() {
        let v = value(300, 5);
        assert!(v.len() == 300 && v.iter().all(|b| *b != 0));
        assert_ne!(value(10, 1), value(10, 2));
    }
}
