//! The line that says what `clone` did.

use std::path::Path;
use std::time::Duration;

use calve::{CopiedBecause, DestinationReport, Method, SkipReason, UnlinkedBecause};

use crate::filesystems::why_not_shared;
use crate::output::Output;
use crate::text::{self, count, counted, shown};

/// The facts of the line.
pub(crate) struct Summary<'a> {
    pub(crate) destinations: &'a [DestinationReport],
    pub(crate) elapsed: Duration,
    pub(crate) dry_run: bool,
    pub(crate) verbose: bool,
    /// Why the filesystem was a reason for copies: `ext4 cannot share blocks`.
    pub(crate) filesystem: Option<String>,
}

/// The sums over all destinations.
#[derive(Default)]
struct Totals {
    made: u64,
    left: u64,
    snapshots: u64,
    files: u64,
    reflinked: (u64, u64),
    copied: (u64, u64),
    linked: u64,
    because: CopiedBecause,
    unlinked: UnlinkedBecause,
    replaced: u64,
    kept: u64,
}

/// Whether a destination stays as it was because the user asked for that.
pub(crate) fn was_left(destination: &DestinationReport) -> bool {
    destination.skipped.iter().any(|skipped| skipped.reason == SkipReason::Exists)
}

impl<'a> Summary<'a> {
    /// Of trees that were made of files of `source`.
    pub(crate) fn of(
        destinations: &'a [DestinationReport],
        source: &Path,
        elapsed: Duration,
        output: Output,
    ) -> Self {
        let filesystem = why_not_shared(source, destinations);
        Self { destinations, elapsed, dry_run: false, verbose: output.verbose, filesystem }
    }

    /// The line. With `-v`, one line per destination comes before it.
    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        if self.verbose {
            for destination in self.destinations {
                lines.push(self.destination(destination));
                let listed = |what, path| format!("{what}: {}", shown(path));
                lines.extend(destination.replaced.iter().map(|path| listed("replaced", path)));
                lines.extend(destination.kept.iter().map(|path| listed("kept", path)));
                let ready = destination.ready_index_entries;
                if ready > 0 {
                    let name = shown(&destination.path);
                    let entries = counted(ready, "entry");
                    lines.push(format!("{name}: git's index: {entries} ready for git status"));
                }
            }
        }
        lines.push(self.line());
        lines.join("\n")
    }

    fn line(&self) -> String {
        let totals = totals(self.destinations);
        let mut line = String::from(if self.dry_run { "dry run: " } else { "" });
        let left = match totals.left {
            0 => None,
            left => Some(format!("{} left as before", counted(left, "tree"))),
        };
        if totals.made == 0 {
            line.push_str(left.as_deref().unwrap_or("nothing to do"));
            return line;
        }
        line.push_str(&counted(totals.made, "tree"));
        let counted_trees = totals.made - totals.snapshots;
        if counted_trees == 0 {
            line.push_str(": all by snapshot");
        } else {
            line.push_str(&format!(", {}{}", counted(totals.files, "file"), self.how(&totals)));
            if totals.snapshots > 0 {
                line.push_str(&format!(", and {} by snapshot", counted(totals.snapshots, "tree")));
            }
        }
        line.push_str(&format!(", {}", text::duration(self.elapsed)));
        if let Some(reasons) = self.reasons(totals.because, totals.unlinked) {
            line.push_str(&format!(": {reasons}"));
        }
        for (entries, what) in [(totals.replaced, "replaced"), (totals.kept, "kept as before")] {
            if entries > 0 {
                line.push_str(&format!("; {} {what}", count(entries)));
            }
        }
        if let Some(left) = left {
            line.push_str(&format!("; {left}"));
        }
        line
    }

    fn how(&self, totals: &Totals) -> String {
        let (reflinked, copied) = (totals.reflinked, totals.copied);
        if totals.files == 0 {
            return ": nothing to share, 0 B copied".to_owned();
        }
        if reflinked.0 + copied.0 + totals.linked == 0 {
            // A dry run only counts. Only a real run shows how each file arrives.
            return " would arrive".to_owned();
        }
        if reflinked.0 == totals.files {
            let size =
                if self.verbose { format!(" ({})", self.size(reflinked.1)) } else { String::new() };
            return format!(": all reflinked{size}, 0 B copied");
        }
        let mut parts = Vec::new();
        if reflinked.0 > 0 {
            parts.push(format!("{} reflinked ({})", count(reflinked.0), self.size(reflinked.1)));
        }
        if totals.linked > 0 {
            parts.push(format!("{} linked", count(totals.linked)));
        }
        if copied.0 > 0 {
            parts.push(format!("{} copied ({})", count(copied.0), self.size(copied.1)));
        } else {
            parts.push("0 B copied".to_owned());
        }
        format!(": {}", parts.join(", "))
    }

    fn reasons(&self, because: CopiedBecause, unlinked: UnlinkedBecause) -> Option<String> {
        let mut reasons = Vec::new();
        // If calve could not link a file, the same reason explains why it copied the file.
        let told = unlinked.total() > 0;
        if unlinked.file > 0 {
            reasons.push(format!("{} could not be linked", count(unlinked.file)));
        }
        if unlinked.filesystem > 0 && because.filesystem == 0 {
            reasons.push(format!("the filesystem cannot link {}", count(unlinked.filesystem)));
        }
        if because.filesystem > 0 {
            let why = self.filesystem.as_deref().unwrap_or("the filesystem cannot share blocks");
            reasons.push(format!("{why}; 'calve doctor' says how to change that"));
        }
        for (files, reason) in [
            (if told { 0 } else { because.file }, "could not be reflinked"),
            (because.vanished, "unpacked, since there was no file to clone"),
            (because.mutable, "copied for --mutable"),
        ] {
            if files > 0 {
                reasons.push(format!("{} {reason}", count(files)));
            }
        }
        // If the user asked for copies, no reason is needed.
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn destination(&self, destination: &DestinationReport) -> String {
        let name = shown(&destination.path);
        if was_left(destination) {
            return format!("{name}: left as before");
        }
        let method = destination.method.as_str();
        if destination.method == Method::Snapshot {
            return format!("{name}: {method}");
        }
        let totals = totals(std::slice::from_ref(destination));
        format!(
            "{name}: {method}: {}, {}, {}{}",
            counted(destination.directories, "directory"),
            counted(destination.files, "file"),
            counted(destination.symlinks, "symlink"),
            self.how(&totals)
        )
    }

    fn size(&self, bytes: u64) -> String {
        if self.verbose { text::exact_bytes(bytes) } else { text::bytes(bytes) }
    }
}

fn totals(destinations: &[DestinationReport]) -> Totals {
    let mut totals = Totals::default();
    for destination in destinations {
        if was_left(destination) {
            totals.left += 1;
            continue;
        }
        totals.made += 1;
        totals.snapshots += u64::from(destination.method == Method::Snapshot);
        totals.files += destination.files;
        totals.reflinked.0 += destination.reflinked_files;
        totals.reflinked.1 += destination.reflinked_bytes;
        totals.copied.0 += destination.copied_files;
        totals.copied.1 += destination.copied_bytes;
        totals.linked += destination.linked_files;
        totals.replaced += destination.replaced_entries;
        totals.kept += destination.kept_entries;
        totals.unlinked.filesystem += destination.unlinked_because.filesystem;
        totals.unlinked.file += destination.unlinked_because.file;
        totals.unlinked.mutable += destination.unlinked_because.mutable;
        let because = &destination.copied_because;
        totals.because.filesystem += because.filesystem;
        totals.because.file += because.file;
        totals.because.vanished += because.vanished;
        totals.because.mutable += because.mutable;
        totals.because.disabled += because.disabled;
    }
    totals
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn report(method: Method, change: impl FnOnce(&mut DestinationReport)) -> DestinationReport {
        let mut report = DestinationReport::default();
        report.path = PathBuf::from("copy");
        report.method = method;
        change(&mut report);
        report.files = report.reflinked_files + report.copied_files + report.linked_files;
        report
    }

    fn reflinked(files: u64) -> DestinationReport {
        report(Method::Reflink, |report| {
            report.reflinked_files = files;
            report.reflinked_bytes = files * 1000;
            report.directories = 1;
        })
    }

    fn copied(because: impl FnOnce(&mut CopiedBecause, u64)) -> DestinationReport {
        report(Method::Copy, |report| {
            report.copied_files = 12;
            report.copied_bytes = 1_300_000_000;
            because(&mut report.copied_because, 12);
        })
    }

    fn counted_only(files: u64) -> DestinationReport {
        let mut report = report(Method::None, |_| {});
        report.files = files;
        report
    }

    fn snapshot() -> DestinationReport {
        report(Method::Snapshot, |_| {})
    }

    fn line(destinations: &[DestinationReport]) -> String {
        let filesystem = Some("ext4 cannot share blocks".to_owned());
        let elapsed = Duration::from_millis(14_200);
        Summary { destinations, elapsed, dry_run: false, verbose: false, filesystem }.line()
    }

    #[test]
    fn the_line_says_what_was_shared_what_was_copied_and_why() {
        let mixed = report(Method::Mixed, |report| {
            report.reflinked_files = 2000;
            report.reflinked_bytes = 5_000;
            report.linked_files = 3;
            report.copied_files = 1;
            report.copied_bytes = 7;
            report.copied_because.file = 1;
        });
        for (destinations, expected) in [
            (
                vec![reflinked(78_579); 8],
                "8 trees, 628,632 files: all reflinked, 0 B copied, 14.2 s",
            ),
            (
                vec![copied(|because, files| because.filesystem = files)],
                "1 tree, 12 files: 12 copied (1.3 GB), 14.2 s: ext4 cannot share blocks; 'calve doctor' says \
                 how to change that",
            ),
            (
                vec![copied(|because, files| because.disabled = files)],
                "1 tree, 12 files: 12 copied (1.3 GB), 14.2 s",
            ),
            (
                vec![copied(|because, files| because.mutable = files)],
                "1 tree, 12 files: 12 copied (1.3 GB), 14.2 s: 12 copied for --mutable",
            ),
            (
                vec![mixed],
                "1 tree, 2,004 files: 2,000 reflinked (5.0 kB), 3 linked, 1 copied (7 B), 14.2 s: 1 could not \
                 be reflinked",
            ),
            (
                vec![report(Method::Mixed, |report| {
                    report.reflinked_files = 2;
                    report.reflinked_bytes = 5_000;
                    report.linked_files = 3;
                    report.unlinked_because.file = 2;
                    report.replaced_entries = 4;
                })],
                "1 tree, 5 files: 2 reflinked (5.0 kB), 3 linked, 0 B copied, 14.2 s: 2 could not be linked; \
                 4 replaced",
            ),
            (
                vec![report(Method::Reflink, |report| {
                    report.reflinked_files = 2;
                    report.kept_entries = 1_000;
                })],
                "1 tree, 2 files: all reflinked, 0 B copied, 14.2 s; 1,000 kept as before",
            ),
            (vec![counted_only(5)], "1 tree, 5 files would arrive, 14.2 s"),
            (vec![reflinked(0)], "1 tree, 0 files: nothing to share, 0 B copied, 14.2 s"),
            (vec![snapshot(), snapshot()], "2 trees: all by snapshot, 14.2 s"),
            (
                vec![snapshot(), reflinked(1)],
                "2 trees, 1 file: all reflinked, 0 B copied, and 1 tree by snapshot, 14.2 s",
            ),
            (vec![], "nothing to do"),
        ] {
            assert_eq!(line(&destinations), expected);
        }
    }

    #[test]
    fn exact_numbers_and_each_destination_are_given_when_asked_for() {
        let destinations = [reflinked(1_234), snapshot()];
        let summary = Summary {
            destinations: &destinations,
            elapsed: Duration::from_millis(5),
            dry_run: true,
            verbose: true,
            filesystem: None,
        };
        let expected = "copy: reflink: 1 directory, 1,234 files, 0 symlinks: all reflinked (1,234,000 B), 0 B copied\n\
            copy: snapshot\n\
            dry run: 2 trees, 1,234 files: all reflinked (1,234,000 B), 0 B copied, and 1 tree by snapshot, 5 ms";
        assert_eq!(summary.text(), expected);
    }
}
