//! The faults of mappings of DAX files, where the library cannot tell a store from a load, or runs
//! in a model: there are none.

use super::Span;
use crate::error::{FsError, Result};

/// Addresses whose faults are resolved.
#[derive(Debug)]
pub(super) struct Watch;

/// Refuses.
///
/// # Errors
///
/// Always.
pub(super) fn watch(_span: &Span) -> Result<Watch> {
    Err(FsError::Unsupported(
        "a real mapping of a DAX file, on a processor other than x86-64",
    ))
}
