//! Walks the directories. One thread goes through them; several threads share the files of each.
//! calve sets the directories' times at the end.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::filter::{Decision, IgnoreChain};
use super::stage::{PREFIX, is_at_work};
use super::{Dest, Walk, below, lock, open_to_ask, two_names};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{self, Source};
use crate::reflink::sys;
use crate::report::SkipReason;

/// Fewer files than this are not worth a thread.
const FILES_PER_THREAD: usize = 8;

/// A directory to walk.
struct Directory {
    path: PathBuf,
    inside_excluded: bool,
    chain: Option<Arc<IgnoreChain>>,
}

/// A directory whose times calve sets at the end.
struct Finished {
    path: PathBuf,
    meta: Metadata,
    /// For each destination: whether calve made the directory.
    made: Vec<bool>,
}

impl Walk<'_> {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut finished = Vec::new();
        let root = Directory { path: PathBuf::new(), inside_excluded: false, chain: None };
        let mut waiting = vec![root];
        while let Some(directory) = waiting.pop() {
            self.check()?;
            if let Some(done) = self.directory(directory, &mut waiting)? {
                finished.push(done);
            }
        }
        // `finished` has parents before their children. Making a child changed its parent's times,
        // so this goes backwards.
        for directory in finished.iter().rev() {
            for (dest, _) in self.dests.iter().zip(&directory.made).filter(|(_, made)| **made) {
                imp::finish_directory(&below(&dest.root, &directory.path), &directory.meta)
                    .context(Operation::SetMetadata, || dest.place(&directory.path))?;
            }
        }
        Ok(())
    }

    /// Makes a directory and its files at every destination. Adds its child directories to
    /// `waiting`.
    fn directory(
        &self,
        directory: Directory,
        waiting: &mut Vec<Directory>,
    ) -> Result<Option<Finished>, Error> {
        let Directory { path, inside_excluded, mut chain } = directory;
        let from = below(&self.root, &path);
        let is_root = path.as_os_str().is_empty();
        let shown = || self.shown(&path);
        let opened = open_to_ask(&from).and_then(|dir| Ok((dir.metadata()?, sys::identity(&dir)?)));
        let meta = match opened {
            Ok((_, identity)) if !is_root && self.excluded.contains(&identity.id) => {
                return Ok(None);
            }
            Ok((meta, _)) if meta.is_dir() => meta,
            Ok(_) => return self.vanished(&path),
            Err(error) if imp::is_gone(&error) => return self.vanished(&path),
            Err(error) => return Err(Error::io(Operation::OpenDirectory, shown(), error)),
        };
        // calve reads the listing to its end first: it may otherwise miss names that others replace
        // meanwhile.
        let entries: Vec<_> = match fs::read_dir(&from) {
            Ok(entries) => entries.collect(),
            Err(error) if imp::is_gone(&error) => return self.vanished(&path),
            Err(error) => return Err(Error::io(Operation::ReadDirectory, shown(), error)),
        };
        let made = self.make_directories(&path)?;
        if self.filter.reads_ignore_files() {
            chain = self.read_ignore_files(&path, chain)?;
        }
        let mut files = Vec::new();
        let merging = self.dests.iter().any(|dest| dest.merging);
        let mut names = HashMap::new();
        for entry in entries {
            self.check()?;
            let entry = entry.context(Operation::ReadDirectory, shown)?;
            let name = entry.file_name();
            let kind = entry.file_type().context(Operation::ReadDirectory, shown)?;
            let path = path.join(&name);
            let decision = match self.filter.keeps_everything() {
                true => Decision::Keep,
                false => self.filter.decide(&path, kind.is_dir(), inside_excluded, chain.as_ref()),
            };
            if decision == Decision::Leave {
                continue;
            }
            if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                if !is_at_work(&self.root.join(&path)) {
                    self.skip(None, &path, SkipReason::Stage);
                }
                continue;
            }
            // The source may tell case apart in this folder. The second file would replace the
            // first.
            if merging
                && let Some(first) =
                    names.insert(name.to_string_lossy().to_lowercase(), path.clone())
            {
                return Err(self.one_place(&first, &path));
            }
            if kind.is_dir() {
                let inside_excluded = decision == Decision::Enter;
                waiting.push(Directory { path, inside_excluded, chain: chain.clone() });
            } else if kind.is_symlink() {
                self.symlink(&path)?;
            } else {
                files.push(path);
            }
        }
        self.files(&files)?;
        Ok(Some(Finished { path, meta, made }))
    }

    fn one_place(&self, first: &Path, second: &Path) -> Error {
        let why = "the destination takes their names for one (it ignores case)";
        let cause = io::Error::new(io::ErrorKind::AlreadyExists, why);
        Error::new(ErrorKind::Conflict, Operation::Merge, self.shown(first), cause)
            .with_other(self.shown(second))
    }

    fn vanished(&self, path: &Path) -> Result<Option<Finished>, Error> {
        self.skip(None, path, SkipReason::Vanished);
        Ok(None)
    }

    /// Makes a directory at each destination. Returns which of them calve made.
    fn make_directories(&self, path: &Path) -> Result<Vec<bool>, Error> {
        let mut made = Vec::with_capacity(self.dests.len());
        for dest in &self.dests {
            let new = match path.as_os_str().is_empty() {
                true => dest.made || !dest.merging,
                false => self.make_directory(dest, path)?,
            };
            lock(&dest.tally).directories += u64::from(new);
            made.push(new);
        }
        if self.dests.is_empty() {
            lock(&self.dry).directories += 1;
        }
        Ok(made)
    }

    /// Makes a directory. Returns whether calve made it; in a merge it may exist already.
    fn make_directory(&self, dest: &Dest<'_>, path: &Path) -> Result<bool, Error> {
        let place = dest.root.join(path);
        match fs::create_dir(&place) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(Operation::MakeDirectory, dest.place(path), error));
            }
            Err(_) if !dest.merging => return Err(two_names(dest.place(path))),
            Err(_) => {}
        }
        if fs::symlink_metadata(&place).context(Operation::Read, || dest.place(path))?.is_dir() {
            return Ok(false);
        }
        let cause = io::Error::new(
            io::ErrorKind::NotADirectory,
            "the destination has something else of that name",
        );
        Err(Error::new(ErrorKind::Conflict, Operation::MergeDirectory, self.shown(path), cause)
            .with_other(dest.place(path)))
    }

    /// Puts the rules of the directory's `.gitignore` (and of `.git/info/exclude` at the root) on
    /// top of the rules from above.
    fn read_ignore_files(
        &self,
        path: &Path,
        mut chain: Option<Arc<IgnoreChain>>,
    ) -> Result<Option<Arc<IgnoreChain>>, Error> {
        let names: &[&str] = match path.as_os_str().is_empty() {
            true => &[r".git\info\exclude", ".gitignore"],
            false => &[".gitignore"],
        };
        for name in names {
            let name = path.join(name);
            let shown = || self.shown(&name);
            if let Source::File(mut file, _) =
                imp::open_source(&self.root.join(&name)).context(Operation::Open, shown)?
            {
                let mut text = Vec::new();
                file.read_to_end(&mut text).context(Operation::Read, shown)?;
                chain = Some(IgnoreChain::push(chain, path, &text));
            }
        }
        Ok(chain)
    }

    /// Handles the files of a directory, in several threads if there are many.
    fn files(&self, files: &[PathBuf]) -> Result<(), Error> {
        let jobs = self.options.jobs.map_or_else(
            || std::thread::available_parallelism().map_or(1, usize::from).min(8),
            usize::from,
        );
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), Error> {
            while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.check()?;
                self.file(path)?;
            }
            Ok(())
        };
        let threads = jobs.min(files.len() / FILES_PER_THREAD);
        if threads < 2 {
            return work();
        }
        // The error that stopped the other threads is the one that is reported.
        let failure = Mutex::new(None);
        let serve = || {
            if let Err(error) = work() {
                lock(&failure).get_or_insert(error);
                self.stop.store(true, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // If no more threads can start, this one does all the work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, serve);
            }
            serve();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
