//! Stands in for `patterns.rs` without the feature `patterns`: nobody can give a pattern, and no
//! ignore file is read.

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;

#[derive(Debug)]
pub(super) struct Patterns;

impl Patterns {
    pub(super) fn leading_to(_: &[String]) -> Result<Self, Error> {
        Ok(Self)
    }

    pub(super) fn compile(_: &[String]) -> Result<Self, Error> {
        Ok(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        true
    }

    pub(super) fn match_path(&self, _: &Path, _is_dir: bool) -> bool {
        false
    }
}

/// The ignore files of a directory: there are none.
#[derive(Debug)]
pub(crate) struct IgnoreChain;

impl IgnoreChain {
    pub(crate) fn push(_: Option<Arc<Self>>, _: &Path, _text: &[u8]) -> Arc<Self> {
        Arc::new(Self)
    }

    pub(crate) fn excludes(&self, _: &Path, _is_dir: bool) -> bool {
        false
    }
}
