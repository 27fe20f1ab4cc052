//! Adds the counts of the threads, and writes the reports.

use std::path::{Path, PathBuf};

#[cfg(unix)]
use super::LinkKind;
use super::{CloneMode, Existing};
use crate::report::{DestinationReport, Method, SkipReason, Skipped};

/// Adds the counts of one thread. On other systems all threads share one count.
#[cfg(unix)]
pub(crate) fn add(sum: &mut DestinationReport, own: &DestinationReport) {
    for (sum, own) in counts(sum).into_iter().zip(counts(&mut own.clone())) {
        *sum += *own;
    }
    sum.replaced.extend_from_slice(&own.replaced);
    sum.kept.extend_from_slice(&own.kept);
}

/// Takes counts back.
#[cfg(unix)]
pub(super) fn take_back(sum: &mut DestinationReport, counted: &DestinationReport) {
    for (sum, counted) in counts(sum).into_iter().zip(counts(&mut counted.clone())) {
        *sum = sum.saturating_sub(*counted);
    }
}

/// All counts that the threads have.
#[cfg(unix)]
fn counts(report: &mut DestinationReport) -> [&mut u64; 22] {
    let (copied, unlinked) = (&mut report.copied_because, &mut report.unlinked_because);
    let linked = &mut report.linked_because;
    [
        &mut report.files,
        &mut report.directories,
        &mut report.symlinks,
        &mut report.fifos,
        &mut report.reflinked_files,
        &mut report.reflinked_bytes,
        &mut report.copied_files,
        &mut report.copied_bytes,
        &mut report.linked_files,
        &mut report.symlinked_files,
        &mut report.replaced_entries,
        &mut report.kept_entries,
        &mut linked.filesystem,
        &mut linked.file,
        &mut unlinked.filesystem,
        &mut unlinked.file,
        &mut unlinked.mutable,
        &mut copied.disabled,
        &mut copied.filesystem,
        &mut copied.file,
        &mut copied.vanished,
        &mut copied.mutable,
    ]
}

/// Why a file did not arrive as requested; see [`CopiedBecause`](crate::CopiedBecause) and
/// [`LinkedBecause`](crate::LinkedBecause).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(not(unix), expect(unreachable_pub, reason = "only `FinishedFile` has it"))]
pub enum Because {
    /// The caller asked for copies.
    Disabled,
    /// The two filesystems cannot share blocks, or cannot link.
    Filesystem,
    /// The system refused to clone or link this one file.
    File,
    /// The file must be mutable, and a link to the source's file would not be.
    Mutable,
    /// The source's file has no name any more.
    #[cfg(unix)]
    Vanished,
}

/// Counts a file that is no link although the caller asked for links.
pub(super) fn count_unlinked(tally: &mut DestinationReport, because: Because) {
    let reasons = &mut tally.unlinked_because;
    match because {
        Because::Filesystem => reasons.filesystem += 1,
        Because::File => reasons.file += 1,
        Because::Mutable => reasons.mutable += 1,
        // No link is refused because the caller asked for copies.
        Because::Disabled => {}
        #[cfg(unix)]
        Because::Vanished => {}
    }
}

/// A file that is a link to the source's file or to its own first name.
#[cfg(unix)]
#[derive(Debug, Clone, Copy)]
pub(super) struct FileLink {
    pub(super) kind: LinkKind,
    /// If the caller asked for a clone, or for another kind of link: why it is none.
    pub(super) instead: Option<Because>,
}

#[cfg(unix)]
impl FileLink {
    /// A further name of a file that has arrived.
    pub(super) const FURTHER: Self = Self { kind: LinkKind::Hard, instead: None };
}

/// Counts a link.
#[cfg(unix)]
pub(super) fn count_linked(tally: &mut DestinationReport, linked: FileLink) {
    tally.files += 1;
    tally.linked_files += 1;
    tally.symlinked_files += u64::from(linked.kind == LinkKind::Symbolic);
    match linked.instead {
        Some(Because::Filesystem) => tally.linked_because.filesystem += 1,
        Some(_) => tally.linked_because.file += 1,
        None => {}
    }
}

/// Counts an entry `path` that a merge found in its place. If `wanted`, also lists it.
pub(super) fn count_existing(
    tally: &mut DestinationReport,
    existing: Existing,
    wanted: bool,
    path: impl FnOnce() -> PathBuf,
) {
    let (count, list) = match existing {
        Existing::Keep => (&mut tally.kept_entries, &mut tally.kept),
        _ => (&mut tally.replaced_entries, &mut tally.replaced),
    };
    *count += 1;
    list.extend(wanted.then(path));
}

/// Counts a file of this size that was cloned, or copied for a reason.
pub(crate) fn count(tally: &mut DestinationReport, copied: Option<Because>, size: u64) {
    tally.files += 1;
    let Some(because) = copied else {
        tally.reflinked_files += 1;
        tally.reflinked_bytes += size;
        return;
    };
    tally.copied_files += 1;
    tally.copied_bytes += size;
    let reasons = &mut tally.copied_because;
    *match because {
        Because::Disabled => &mut reasons.disabled,
        Because::Filesystem => &mut reasons.filesystem,
        Because::File => &mut reasons.file,
        Because::Mutable => &mut reasons.mutable,
        #[cfg(unix)]
        Because::Vanished => &mut reasons.vanished,
    } += 1;
}

/// The reports of an operation that has not begun. Each destination comes with a flag: whether it
/// stays as it is. The report says so.
pub(super) fn reports<'a>(
    destinations: impl Iterator<Item = (&'a Path, bool)>,
) -> Vec<DestinationReport> {
    destinations
        .map(|(path, skip)| {
            let exists = Skipped { path: PathBuf::new(), reason: SkipReason::Exists };
            DestinationReport {
                path: path.to_owned(),
                skipped: skip.then_some(exists).into_iter().collect(),
                ..DestinationReport::default()
            }
        })
        .collect()
}

/// An entry that did not arrive complete, at one destination of the walk or at all of them.
pub(crate) type Finding = (Option<usize>, Skipped);

/// Writes the counts to the report of a destination, and those `findings` that concern all
/// destinations or the walk's destination number `place`.
pub(crate) fn write(
    report: &mut DestinationReport,
    counts: DestinationReport,
    findings: &[Finding],
    place: Option<usize>,
) {
    let (path, inside_source) = (std::mem::take(&mut report.path), report.inside_source);
    *report = DestinationReport { path, inside_source, ..counts };
    report.skipped = findings
        .iter()
        .filter(|(dest, _)| dest.is_none() || *dest == place)
        .map(|(_, skipped)| skipped.clone())
        .collect();
    report.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    report.replaced.sort();
    report.kept.sort();
}

/// How the files arrived, as one method. Further names of a file that arrived are no method of
/// their own.
pub(crate) fn method(mode: CloneMode, report: &DestinationReport) -> Method {
    let symlinked = report.symlinked_files;
    let linked = match mode {
        CloneMode::Hardlink => report.linked_files,
        CloneMode::Clone => report.linked_because.total(),
        CloneMode::Symlink | CloneMode::Copy => 0,
    };
    let mut methods = [
        (report.reflinked_files > 0).then_some(Method::Reflink),
        (report.copied_files > 0).then_some(Method::Copy),
        (linked > symlinked).then_some(Method::Hardlink),
        (symlinked > 0).then_some(Method::Symlink),
    ]
    .into_iter()
    .flatten();
    match (methods.next(), methods.next()) {
        (None, _) => Method::None,
        (Some(method), None) => method,
        (Some(_), Some(_)) => Method::Mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_is_the_one_that_was_used_or_mixed() {
        for (mode, reflinked, copied, linked, symlinked, expected) in [
            (CloneMode::Clone, 0, 0, 0, 0, Method::None),
            (CloneMode::Clone, 2, 0, 1, 0, Method::Reflink),
            (CloneMode::Clone, 0, 2, 1, 0, Method::Copy),
            (CloneMode::Clone, 1, 1, 0, 0, Method::Mixed),
            (CloneMode::Hardlink, 0, 0, 3, 0, Method::Hardlink),
            (CloneMode::Hardlink, 0, 0, 3, 1, Method::Mixed),
            (CloneMode::Hardlink, 0, 0, 3, 3, Method::Symlink),
            (CloneMode::Hardlink, 1, 0, 3, 0, Method::Mixed),
            (CloneMode::Symlink, 0, 0, 3, 3, Method::Symlink),
            (CloneMode::Symlink, 1, 0, 3, 2, Method::Mixed),
        ] {
            let report = DestinationReport {
                reflinked_files: reflinked,
                copied_files: copied,
                linked_files: linked,
                symlinked_files: symlinked,
                ..DestinationReport::default()
            };
            assert_eq!(method(mode, &report), expected);
        }
    }
}
