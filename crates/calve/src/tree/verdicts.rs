//! How a destination's filesystem answered clones from each source device, remembered for the
//! operation.

use std::io;
use std::sync::PoisonError;
use std::sync::RwLock;

use crate::reflink::verdict::{Verdict, classify};

/// After this many refusals in a row without one success, calve takes refusals of single files for
/// refusals of the filesystem. User namespaces and sandboxes answer EPERM for every file.
const REFUSALS_MOST: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Verdicts(RwLock<Vec<(u64, KnownClones)>>);

/// What calve knows of clones from one source device to the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KnownClones {
    pub(crate) works: bool,
    pub(crate) refused: bool,
    /// Whether a clone that succeeded turned out to have its source's content.
    pub(crate) is_proven: bool,
    refusals: u32,
}

impl Verdicts {
    pub(crate) fn known(&self, source_dev: u64) -> KnownClones {
        let pairs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pairs
            .iter()
            .find(|(dev, _)| *dev == source_dev)
            .map_or(KnownClones::default(), |(_, known)| *known)
    }

    /// Remembers the result of a clone. Returns `None` if it succeeded, otherwise why this file is
    /// not cloned.
    ///
    /// # Errors
    /// An error after which calve must not copy. Nothing is remembered.
    pub(crate) fn judge(
        &self,
        source_dev: u64,
        cloned: io::Result<()>,
    ) -> io::Result<Option<(Verdict, io::Error)>> {
        let Err(error) = cloned else {
            self.worked(source_dev);
            return Ok(None);
        };
        let verdict = classify(&error);
        if verdict == Verdict::Fatal {
            return Err(error);
        }
        self.refused(source_dev, verdict, error.kind() == io::ErrorKind::PermissionDenied);
        Ok(Some((verdict, error)))
    }

    /// Remembers that a file was cloned.
    pub(crate) fn worked(&self, source_dev: u64) {
        let known = self.known(source_dev);
        let worked = KnownClones { works: true, refused: false, refusals: 0, ..known };
        if known != worked {
            self.change(source_dev, |known| *known = worked);
        }
    }

    /// Remembers that a clone had its source's content.
    #[cfg(unix)]
    pub(crate) fn proven(&self, source_dev: u64) {
        self.change(source_dev, |known| known.is_proven = true);
    }

    /// Remembers that a file was refused with `verdict`. `counts` is set for errnos that may
    /// concern more than the file.
    pub(crate) fn refused(&self, source_dev: u64, verdict: Verdict, counts: bool) {
        self.change(source_dev, |known| {
            known.refusals += u32::from(counts);
            known.refused |=
                verdict == Verdict::Filesystem || (!known.works && known.refusals >= REFUSALS_MOST);
        });
    }

    fn change(&self, source_dev: u64, change: impl FnOnce(&mut KnownClones)) {
        let mut pairs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !pairs.iter().any(|(dev, _)| *dev == source_dev) {
            pairs.push((source_dev, KnownClones::default()));
        }
        if let Some((_, known)) = pairs.iter_mut().find(|(dev, _)| *dev == source_dev) {
            change(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_the_filesystem_is_remembered_for_that_pair_and_one_about_a_file_is_not() {
        let verdicts = Verdicts::default();
        verdicts.refused(1, Verdict::Filesystem, false);
        assert!(verdicts.known(1).refused);
        assert!(!verdicts.known(2).refused, "another device was never asked");
        for _ in 0..10 {
            verdicts.refused(2, Verdict::File, false);
        }
        assert!(!verdicts.known(2).refused, "EINVAL ten times is ten files");
        for _ in 0..3 {
            verdicts.refused(3, Verdict::File, true);
        }
        assert!(verdicts.known(3).refused, "EPERM three times without a success is the filesystem");
        verdicts.worked(4);
        for _ in 0..10 {
            verdicts.refused(4, Verdict::File, true);
        }
        assert!(!verdicts.known(4).refused, "where one clone worked, EPERM is about the file");
    }
}
