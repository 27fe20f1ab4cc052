//! Sums over threads, and what they come to.

use super::Mode;
use crate::report::{DestinationReport, Method};

/// Adds the counts of one thread; elsewhere there is one count for all of them.
#[cfg(unix)]
pub(crate) fn add(sum: &mut DestinationReport, own: &DestinationReport) {
    sum.files += own.files;
    sum.directories += own.directories;
    sum.symlinks += own.symlinks;
    sum.fifos += own.fifos;
    sum.reflinked_files += own.reflinked_files;
    sum.reflinked_bytes += own.reflinked_bytes;
    sum.copied_files += own.copied_files;
    sum.copied_bytes += own.copied_bytes;
    sum.linked_files += own.linked_files;
    let (sum, own) = (&mut sum.copied_because, &own.copied_because);
    sum.disabled += own.disabled;
    sum.filesystem += own.filesystem;
    sum.file += own.file;
    sum.vanished += own.vanished;
    sum.mutable += own.mutable;
}

/// How the files arrived, taken together. Further names of a file that arrived are no method of their own.
pub(super) fn method(mode: Mode, report: &DestinationReport) -> Method {
    let linked = match mode {
        Mode::Hardlink => Some(Method::Hardlink),
        Mode::Symlink => Some(Method::Symlink),
        Mode::Clone | Mode::Copy => None,
    };
    let mut methods = [
        (report.reflinked_files > 0).then_some(Method::Reflink),
        (report.copied_files > 0).then_some(Method::Copy),
        linked.filter(|_| report.linked_files > 0),
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
        for (mode, reflinked, copied, linked, expected) in [
            (Mode::Clone, 0, 0, 0, Method::None),
            (Mode::Clone, 2, 0, 1, Method::Reflink),
            (Mode::Clone, 0, 2, 1, Method::Copy),
            (Mode::Clone, 1, 1, 0, Method::Mixed),
            (Mode::Hardlink, 0, 0, 3, Method::Hardlink),
            (Mode::Hardlink, 1, 0, 3, Method::Mixed),
            (Mode::Symlink, 0, 0, 3, Method::Symlink),
        ] {
            let report = DestinationReport {
                reflinked_files: reflinked,
                copied_files: copied,
                linked_files: linked,
                ..DestinationReport::default()
            };
            assert_eq!(method(mode, &report), expected);
        }
    }
}
