//! Shows changes, file by file and as a patch.
//!
//! calve reads content only when it needs it: the old content from the store, the new content from
//! the worktree. If a file changes between [`Worktree::diff`] and [`Diff::patch`], the patch has
//! its later content.
//!
//! A file is renamed if its content is gone under the old name and appears under a new one. Only
//! equal content counts, and calve pairs each content once. It pairs no files of git's own.
//!
//! Folders called `.git` can be in snapshots, and git changes files in them even when it is only
//! asked for its status. `git apply` refuses a whole patch if the patch names a path in a `.git`.
//! So calve lists such changes and leaves them out of the patch.

use std::collections::HashMap;
use std::io::{self, Read as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::patch::{self, PathChange as Text, Side};
use super::{ChangeKind, ChangeScope, Worktree};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::report::Skipped;
use crate::store::blobs::Intake;
use crate::store::delta::{Counts, Delta, compare};
use crate::store::id::{BlobId, SnapshotId};
use crate::store::manifest::{At, Manifest};
use crate::store::object::{Entry, Kind};
use crate::store::paths::MOST_BYTES;
use crate::store::paths::local::{Local, Tree};
use crate::store::scan::UNKNOWN;
use crate::store::snapshot::local;
use crate::store::{Store, StoreOptions, at};
use crate::tree::running::Running;

/// The differences of a worktree from its snapshot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Diff {
    /// The snapshot that the worktree was compared with.
    pub snapshot: SnapshotId,
    /// Every path that differs, sorted. A renamed file has its new name.
    pub files: Vec<FileDiff>,
    /// Directories in which calve may have missed some entries:
    /// [`SkipReason::Restless`](crate::SkipReason::Restless).
    pub skipped: Vec<Skipped>,
    sides: Vec<(Option<Entry>, Option<Entry>)>,
    store: Store,
    root: PathBuf,
    local: Option<Local>,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileDiff {
    /// The path from the worktree's root. The root itself is `.`.
    pub path: PathBuf,
    /// In which way the path differs. A renamed file counts as added.
    pub kind: ChangeKind,
    /// The path that a renamed file had before. Nothing of that content is left there.
    pub renamed_from: Option<PathBuf>,
    /// How many lines were added and removed. `None` if the content is binary on either side, is no
    /// file, or could not be read.
    pub lines: Option<(u64, u64)>,
    /// The size before, in bytes. 0 if there was no file.
    pub old_bytes: u64,
    /// The size now, in bytes. 0 if there is no file.
    pub new_bytes: u64,
}

impl Worktree {
    /// Compares the worktree with its base snapshot, and counts the lines that were added and
    /// removed.
    ///
    /// # Errors
    /// The same as for [`Worktree::status`], and [`ErrorKind::Damaged`](crate::ErrorKind::Damaged)
    /// if content of the snapshot is lost. Nothing is changed.
    pub fn diff(&self, options: &StoreOptions) -> Result<Diff, Error> {
        self.diff_of(&ChangeScope::new(), options)
    }

    /// Like [`Worktree::diff`], but only for a part of the worktree. A file that was renamed into
    /// that part shows as added, and a file that was renamed out of it shows as deleted.
    ///
    /// # Errors
    /// The same as for [`Worktree::diff`];
    /// [`ErrorKind::SourceNotFound`](crate::ErrorKind::SourceNotFound) for a path that leads out of
    /// the worktree, and for a path that neither the worktree nor its snapshot has.
    pub fn diff_of(&self, scope: &ChangeScope, options: &StoreOptions) -> Result<Diff, Error> {
        let operation = options.operation();
        self.as_now(&operation, |this| this.diff_now(scope, &operation))
    }

    fn diff_now(&self, scope: &ChangeScope, operation: &Running) -> Result<Diff, Error> {
        let mut judge = scope.at(self.path(), self.store().project().ok().as_deref())?;
        let (base, now, skipped) = self.compare(None, operation)?;
        let now = now.as_ref().unwrap_or(&base);
        judge.must_lead_somewhere(&base, now)?;
        let deltas = self.without_own_servers(compare(&base, now, Counts::Changes))?;
        let deltas = judge.judged(&base, now, deltas)?;
        let changes = super::changes(&base, now, &deltas);
        let by_path: HashMap<PathBuf, &Delta> =
            deltas.iter().map(|delta| (super::shown(&delta.path), delta)).collect();
        let mut diff = Diff {
            snapshot: self.based_on()?,
            files: Vec::with_capacity(changes.len()),
            skipped,
            sides: Vec::with_capacity(changes.len()),
            store: self.store().clone(),
            root: self.path().to_owned(),
            local: local(self.store(), &self.row, self.path()),
        };
        let sized = |entry: Option<&Entry>| match entry.map(|entry| &entry.kind) {
            Some(Kind::File { size, .. }) => *size,
            _ => 0,
        };
        for change in changes {
            let Some(delta) = by_path.get(&change.path) else { continue };
            let side = |of: &Manifest, at: Option<At>| at.map(|at| of.at(at).clone());
            let (old, new) = (side(&base, delta.old), side(now, delta.new));
            diff.files.push(FileDiff {
                path: change.path,
                kind: change.kind,
                renamed_from: None,
                lines: None,
                old_bytes: sized(old.as_ref()),
                new_bytes: sized(new.as_ref()),
            });
            diff.sides.push((old, new));
        }
        let mut reader = ContentReader::new(self.store(), self.path(), diff.local.clone())?;
        diff.pair_renames(&mut reader)?;
        for at in 0..diff.files.len() {
            diff.files[at].lines = diff.count_lines(at, &mut reader)?;
        }
        Ok(diff)
    }
}

impl Diff {
    /// Writes all changes as a patch that `git apply` accepts. The patch has no empty directories,
    /// owners, times and attributes, no FIFOs, and no entries of a folder called `.git`.
    ///
    /// # Errors
    /// Content could not be read, or `out` took no more. The bytes that were written until then are
    /// a part of the patch.
    pub fn patch(&self, out: &mut dyn Write) -> Result<(), Error> {
        let mut reader = ContentReader::new(&self.store, &self.root, self.local.clone())?;
        let mut text = Vec::new();
        for (file, (old, new)) in self.files.iter().zip(&self.sides) {
            if is_gits_own(&file.path) {
                continue;
            }
            text.clear();
            self.write_one(&mut text, file, old.as_ref(), new.as_ref(), &mut reader)?;
            out.write_all(&text).context(Operation::WritePatch, || &self.root)?;
        }
        Ok(())
    }

    fn write_one(
        &self,
        text: &mut Vec<u8>,
        file: &FileDiff,
        old: Option<&Entry>,
        new: Option<&Entry>,
        reader: &mut ContentReader<'_>,
    ) -> Result<(), Error> {
        let path = file.path.as_os_str().as_encoded_bytes();
        if let (Some(from), Some(old), Some(new)) = (&file.renamed_from, old, new) {
            let content = reader.now(&file.path, new)?;
            let side = Side { mode: mode_of(new), content: &content };
            let from = from.as_os_str().as_encoded_bytes();
            patch::write(text, path, &Text::Renamed { from, old_mode: mode_of(old), new: side });
            return Ok(());
        }
        let before = old.filter(|entry| has_text(entry));
        let after = new.filter(|entry| has_text(entry));
        let old_content = before.map(|entry| reader.before(&file.path, entry)).transpose()?;
        let new_content = after.map(|entry| reader.now(&file.path, entry)).transpose()?;
        let old = before.zip(old_content.as_deref());
        let new = after.zip(new_content.as_deref());
        let side = |(entry, content): (&Entry, _)| Side { mode: mode_of(entry), content };
        match (old.map(side), new.map(side)) {
            (None, None) => {}
            (None, Some(new)) => patch::write(text, path, &Text::Added(new)),
            (Some(old), None) => patch::write(text, path, &Text::Deleted(old)),
            (Some(old), Some(new)) => patch::write(text, path, &Text::Modified { old, new }),
        }
        Ok(())
    }

    /// Pairs deleted files with added files of the same content.
    fn pair_renames(&mut self, reader: &mut ContentReader<'_>) -> Result<(), Error> {
        let mut gone: HashMap<(BlobId, u64), Vec<usize>> = HashMap::new();
        for (at, (file, (old, _))) in self.files.iter().zip(&self.sides).enumerate().rev() {
            if file.kind == ChangeKind::Deleted
                && !is_gits_own(&file.path)
                && let Some(Entry { kind: Kind::File { size: 1.., blob, .. }, .. }) = old
            {
                gone.entry((*blob, file.old_bytes)).or_default().push(at);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let sizes: std::collections::HashSet<u64> = gone.keys().map(|(_, size)| *size).collect();
        let mut paired = Vec::new();
        for at in 0..self.files.len() {
            let file = &self.files[at];
            if file.kind != ChangeKind::Added
                || !sizes.contains(&file.new_bytes)
                || is_gits_own(&file.path)
            {
                continue;
            }
            let Some(Entry { kind: Kind::File { blob, .. }, .. }) = &self.sides[at].1 else {
                continue;
            };
            let blob = if *blob == UNKNOWN { reader.hash(&file.path)? } else { Some(*blob) };
            let Some(blob) = blob else { continue };
            let Some(from) = gone.get_mut(&(blob, file.new_bytes)).and_then(Vec::pop) else {
                continue;
            };
            paired.push(from);
            let (path, bytes) = (self.files[from].path.clone(), self.files[from].old_bytes);
            self.sides[at].0 = self.sides[from].0.clone();
            self.files[at].renamed_from = Some(path);
            self.files[at].old_bytes = bytes;
        }
        let mut at = 0..self.files.len();
        let keep: Vec<bool> = at.by_ref().map(|at| !paired.contains(&at)).collect();
        let mut keeps = keep.iter();
        self.files.retain(|_| keeps.next().copied().unwrap_or(true));
        let mut keeps = keep.iter();
        self.sides.retain(|_| keeps.next().copied().unwrap_or(true));
        Ok(())
    }

    fn count_lines(
        &self,
        at: usize,
        reader: &mut ContentReader<'_>,
    ) -> Result<Option<(u64, u64)>, Error> {
        let (file, (old, new)) = (&self.files[at], &self.sides[at]);
        if file.renamed_from.is_some()
            || matches!(file.kind, ChangeKind::Mode | ChangeKind::Metadata)
        {
            return Ok(Some((0, 0)));
        }
        let is_other = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| !has_text(entry));
        if is_other(old) || is_other(new) {
            return Ok(None);
        }
        let before = match old {
            Some(entry) => reader.before(&file.path, entry)?,
            None => Vec::new(),
        };
        let after = match new {
            Some(entry) => reader.now(&file.path, entry)?,
            None => Vec::new(),
        };
        Ok(patch::stat_counts(&before, &after))
    }
}

/// Whether git would refuse a patch that names this path. Like git, this ignores case, because some
/// filesystems do.
pub(super) fn is_gits_own(path: &Path) -> bool {
    path.iter().any(|name| name.eq_ignore_ascii_case(".git"))
}

/// Whether a patch can hold the content of this entry.
fn has_text(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. } | Kind::Symlink { .. })
}

fn mode_of(entry: &Entry) -> u32 {
    match entry.kind {
        Kind::Symlink { .. } => 0o120_000,
        _ => 0o100_000 | entry.mode,
    }
}

/// Reads the old and the new content.
struct ContentReader<'a> {
    store: &'a Store,
    path: &'a Path,
    root: OwnedFd,
    intake: Intake,
    /// Set if files of the worktree name another root than the snapshot's.
    local: Option<Local>,
}

impl<'a> ContentReader<'a> {
    fn new(store: &'a Store, path: &'a Path, local: Option<Local>) -> Result<Self, Error> {
        let (root, intake) = (super::open_dir(path)?, Intake::new());
        Ok(Self { store, path, root, intake, local })
    }

    /// The content that the entry had in the snapshot.
    fn before(&mut self, path: &Path, entry: &Entry) -> Result<Vec<u8>, Error> {
        match &entry.kind {
            Kind::Symlink { target, .. } => Ok(target.to_vec()),
            Kind::File { size: 1.., blob, .. } => {
                let size = match entry.kind {
                    Kind::File { size, .. } => size,
                    _ => 0,
                };
                let (file, _) = self
                    .store
                    .contents()
                    .get(&mut self.intake, *blob, size, &|| false)
                    .map_err(|error| error.with_other(path))?;
                // If the mirror was just made from its pack, it was written through this very
                // descriptor.
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))
                    .context(Operation::Read, || self.path.join(path))?;
                read_all(file).context(Operation::Read, || self.path.join(path))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The content that the entry has now. Empty if the entry is gone by now.
    fn now(&mut self, path: &Path, entry: &Entry) -> Result<Vec<u8>, Error> {
        match &entry.kind {
            Kind::Symlink { target, .. } => Ok(target.to_vec()),
            Kind::File { .. } => {
                match self.open(path).context(Operation::Read, || self.path.join(path))? {
                    Some((file, _)) => read_all(file)
                        .and_then(|content| self.canonical(path, content))
                        .context(Operation::Read, || self.path.join(path)),
                    None => Ok(Vec::new()),
                }
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The content that a file of the worktree has in a snapshot.
    fn canonical(&self, path: &Path, content: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(local) = &self.local else { return Ok(content) };
        let tree = Tree { path: self.path, root: &self.root };
        Ok(local.canonical(tree, path, &content)?.unwrap_or(content))
    }

    fn hash(&mut self, path: &Path) -> Result<Option<BlobId>, Error> {
        let hash = |this: &mut Self| -> io::Result<Option<BlobId>> {
            let Some((file, meta)) = this.open(path)? else { return Ok(None) };
            let is_local = this.local.as_ref().is_some_and(|local| local.may_differ(path));
            if is_local && meta.size <= MOST_BYTES {
                let content = this.canonical(path, read_all(file)?)?;
                return Ok(Some(BlobId::of(&content)));
            }
            Ok(Some(this.intake.hash(&file, meta.size, &|| false)?.0))
        };
        hash(self).context(Operation::Read, || self.path.join(path))
    }

    fn open(&self, path: &Path) -> io::Result<Option<(OwnedFd, Meta)>> {
        let opened = at::open_parent(&self.root, path).and_then(|dir| {
            Ok(fs::openat(dir, at::last(path)?, SOURCE_FLAGS, rustix::fs::Mode::empty())?)
        });
        let file = match opened {
            Ok(file) => file,
            Err(error) if at::is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = Meta::of_file(&file)?;
        Ok((meta.file_type() == fs::FileType::RegularFile).then_some((file, meta)))
    }
}

fn read_all(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::from(file).read_to_end(&mut content)?;
    Ok(content)
}
