//! What a call does with something that is there already. Owns the words, not the doing.

/// How `rename` treats an existing target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it, where POSIX allows.
    #[default]
    Replace,
    /// Fail with `EEXIST` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two; both must exist (`RENAME_EXCHANGE`).
    Exchange,
}

/// Whether setting an extended attribute may create or replace it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    #[default]
    Any,
    /// Fail with `EEXIST` if it is there.
    Create,
    /// Fail with `ENODATA` if it is not.
    Replace,
}
