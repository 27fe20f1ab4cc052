//! `calve diff`.

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use calve::{Diff, FileDiff, Worktree};
use clap::builder::styling::{Effects, Style};

use crate::args::DiffArgs;
use crate::clone::SkippedDocument;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::output::{BAD, CAUTION, GOOD, Output, PathFields, STRONG, document};
use crate::progress::Total;
use crate::session::Session;
use crate::snapshots::tell_skipped;
use crate::table::{Cell, Column, Table};
use crate::text::{count, counted, harmless, short};
use crate::worktrees::WorktreeFields;
use crate::worktrees::status::change_style;

pub(crate) fn diff(args: &DiffArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let worktree = session.worktree(args.worktree.as_deref())?;
    let failed = |error: calve::Error| worktree_failure(&error, &worktree);
    let scope = args.scope.scope();
    let diff = session
        .work(Total::Unknown, |options| worktree.diff_of(&scope, options))
        .map_err(failed)?;
    let output = session.output;
    let exit = tell_skipped(&diff.skipped, session);
    if output.json {
        let mut patch = None;
        if args.patch {
            let mut bytes = Vec::new();
            diff.patch(&mut bytes).map_err(failed)?;
            patch = Some(PathFields::named("patch", Path::new(OsStr::from_bytes(&bytes))));
        }
        output.document(&DiffDocument::new(&worktree, &diff, patch))?;
    } else if args.stat {
        stat(&diff, output)?;
    } else {
        write_patch(&diff, &worktree, args.patch, output)?;
    }
    output.summary(totals(&diff, &args.scope.limits()));
    Ok(exit)
}

/// Writes the patch while calve makes it, however large it is.
fn write_patch(
    diff: &Diff,
    worktree: &Worktree,
    whole: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut stdout = Watched { inner: BufWriter::new(io::stdout().lock()), failed: None };
    // We do not use the width here: a terminal may not know its own.
    let (is_terminal, colors) = (io::stdout().is_terminal(), output.has_colors());
    let written = if is_terminal || colors {
        let mut shown = Shown {
            inner: &mut stdout,
            line: Vec::new(),
            in_hunk: false,
            in_binary: false,
            hides_binary: is_terminal && !whole,
            is_terminal,
            colors,
        };
        diff.patch(&mut shown)
    } else {
        diff.patch(&mut stdout)
    };
    match (written, stdout.failed.take()) {
        (_, Some(error)) => Err(Failure::output(&error)),
        (Err(error), None) => {
            // First print the part of the patch that exists, then the error.
            let _ = stdout.flush();
            Err(worktree_failure(&error, worktree))
        }
        (Ok(()), None) => stdout.flush().map_err(|error| Failure::output(&error)),
    }
}

/// A stream that remembers its error. Without it, an error of writing looks like one of reading:
/// the library reports both in the same way.
struct Watched<W> {
    inner: W,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(error.kind(), error.to_string()),
                });
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A patch for people. It has colors. On a terminal, it has no characters that could steer the
/// terminal, and none of the parts that only programs read.
struct Shown<W> {
    inner: W,
    /// The beginning of a line. The patch itself ends with a line break.
    line: Vec<u8>,
    in_hunk: bool,
    in_binary: bool,
    hides_binary: bool,
    is_terminal: bool,
    colors: bool,
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.line.pop();
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Shown<W> {
    fn end_line(&mut self) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        if self.hides_binary {
            // The lines of a binary patch contain no spaces, so this line begins the next file.
            self.in_binary &= !line.starts_with(b"diff --git ");
            if self.in_binary {
                return Ok(());
            }
            if !self.in_hunk && line == b"GIT binary patch" {
                self.in_binary = true;
                line = b"Binary files differ; --patch prints their content".to_vec();
            }
        }
        self.in_hunk =
            line.starts_with(b"@@") || (self.in_hunk && !line.starts_with(b"diff --git "));
        let style = match (self.colors, self.in_hunk, line.first()) {
            (false, ..) => Style::new(),
            (true, false, _) => STRONG,
            (true, true, Some(b'+')) => GOOD,
            (true, true, Some(b'-')) => BAD,
            (true, true, Some(b'@')) => CAUTION,
            _ => Style::new(),
        };
        // Colors only, no bold: a patch has many lines.
        let style = if self.in_hunk { style.effects(Effects::new()) } else { style };
        write!(self.inner, "{style}")?;
        if self.is_terminal {
            let text = String::from_utf8_lossy(&line);
            let parts: Vec<_> = text.split('\t').map(harmless).collect();
            self.inner.write_all(parts.join("\t").as_bytes())?;
        } else {
            self.inner.write_all(&line)?;
        }
        writeln!(self.inner, "{style:#}")
    }
}

/// One line per file: `M  +12 -3  path`.
fn stat(diff: &Diff, output: Output) -> Result<(), Failure> {
    let how = |file: &FileDiff| match file.lines {
        Some((added, removed)) => format!("+{added} -{removed}"),
        None if file.old_bytes == file.new_bytes => "-".to_owned(),
        None => format!("{} to {}", output.size(file.old_bytes), output.size(file.new_bytes)),
    };
    let mut table = Table::new([Column::Left, Column::Left, Column::Name]);
    for file in &diff.files {
        let letter = if file.renamed_from.is_some() { 'R' } else { file.kind.letter() };
        let style = match letter {
            'R' => CAUTION,
            _ => change_style(file.kind),
        };
        let mut paths = Vec::new();
        if let Some(from) = &file.renamed_from {
            paths.extend(output.path(from));
            paths.extend(b" => ");
        }
        paths.extend(output.path(&file.path));
        table.row([Cell::from(letter.to_string()).styled(style), how(file).into(), paths.into()]);
    }
    output.table(&table)
}

fn totals(diff: &Diff, limits: &str) -> String {
    let (added, removed) = diff
        .files
        .iter()
        .filter_map(|file| file.lines)
        .fold((0, 0), |sum: (u64, u64), lines| (sum.0 + lines.0, sum.1 + lines.1));
    let since = short(diff.snapshot);
    match diff.files.len() as u64 {
        0 => format!("no changes since snapshot {since}{limits}"),
        files => format!(
            "{} since snapshot {since}{limits}: {} added, {} removed",
            counted(files, "change"),
            counted(added, "line"),
            count(removed)
        ),
    }
}

document! {
    /// The JSON document of `diff`; docs/json.md says what each field of these means.
    struct DiffDocument(
        worktree: &Worktree,
        diff: &Diff,
        patch: Option<PathFields>,
    ) {
        #[serde(flatten)]
        worktree: WorktreeFields = WorktreeFields::new(worktree),
        snapshot: String = diff.snapshot.to_string(),
        files: Vec<FileDocument> = diff.files.iter().map(FileDocument::new).collect(),
        skipped: Vec<SkippedDocument> = diff.skipped.iter().map(SkippedDocument::new).collect(),
        /// Encoded like a path.
        #[serde(flatten)]
        patch: Option<PathFields> = patch,
    }
}

document! {
    struct FileDocument(file: &FileDiff) [ let from = file.renamed_from.as_deref(); ] {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&file.path),
        change: &'static str = if from.is_some() { "renamed" } else { file.kind.as_str() },
        #[serde(flatten)]
        renamed_from: PathFields = PathFields::if_any("renamed_from", from),
        added_lines: Option<u64> = file.lines.map(|(added, _)| added),
        removed_lines: Option<u64> = file.lines.map(|(_, removed)| removed),
        old_bytes: u64 = file.old_bytes,
        new_bytes: u64 = file.new_bytes,
    }
}
