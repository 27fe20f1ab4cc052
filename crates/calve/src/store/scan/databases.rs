//! Takes in the files of a SQLite database together, so that a snapshot has all of them as they
//! were at one moment.
//!
//! A SQLite database consists of a file and its write-ahead log (`NAME-wal`) or its rollback
//! journal (`NAME-journal`). Each of them alone can be taken in at one moment, but files from two
//! moments are not a database. A checkpoint between the two moments moves content from the log to
//! the database file, and a log that was restarted does not have that content any more.
//!
//! The rule, argued in `docs/design/seals.md`: look at the database, take in the database and its
//! companions, look at the database again. If it did not change, its content was the same at the
//! moment at which the last companion was taken in. So the files are what would be left if all
//! users of the database were killed at that moment, and SQLite recovers from that. If the database
//! did change, calve tries again for a while, and then leaves out all of its files.
//!
//! Only two kinds of database matter: those that a process has open for writing, and those that
//! have a companion, since they may be in use, or have been a moment ago. This pass follows the
//! scan and has one thread, since such databases are few.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, pread, retry_on_intr};

use super::super::blobs::Intake;
use super::super::manifest::os;
use super::{Listed, Mentions, ScanNode, ScanWorker, Scanned, Scanner, Stat, Wanted, What};
use crate::error::{Context as _, Error, IfThere as _, Operation};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::report::{SkipReason, Skipped};
use crate::tree::listing;

/// The first bytes of every SQLite database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The suffixes of a database's companions. The shared memory (`-shm`) is not among them: SQLite
/// makes it anew from the log when the first process opens the database.
pub(crate) const JOURNAL: &[u8] = b"-journal";
pub(crate) const WAL: &[u8] = b"-wal";

/// How long calve tries to find one database at rest, and how long for all of them.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(10);

/// The pause between two attempts. A checkpoint or a transaction is short.
const PAUSE: Duration = Duration::from_millis(3);

/// A file that may be a database in use.
pub(super) struct Candidate {
    place: u32,
    dir: Arc<ScanNode>,
    name: CString,
}

/// The entry that a database has under one of its names.
enum DatabasePart {
    Absent,
    /// The entry is what the scan found.
    AsFound,
    New(What),
}

type DatabaseParts = Vec<(CString, DatabasePart)>;

enum DatabaseAttempt {
    /// All parts are of one moment.
    Whole(DatabaseParts),
    /// The database changed meanwhile.
    Changed,
    Vanished,
    NoDatabase,
}

/// The state of a file at the moment at which it was opened by its name.
struct DatabaseLook {
    name: CString,
    file: Option<(OwnedFd, Meta)>,
    /// Whether every later change gives the file other times.
    shows: bool,
}

impl DatabaseLook {
    fn at(dir: &OwnedFd, name: &CStr) -> io::Result<Self> {
        let since = listing::now();
        let name = name.to_owned();
        let file = match fs::openat(dir, &name, SOURCE_FLAGS, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
                return Ok(Self { name, file: None, shows: true });
            }
            Err(errno) => return Err(errno.into()),
        };
        let meta = Meta::of_file(&file)?;
        if meta.file_type() != FileType::RegularFile {
            return Ok(Self { name, file: None, shows: true });
        }
        let shows = listing::would_show(meta.changed, since);
        Ok(Self { name, file: Some((file, meta)), shows })
    }

    /// Whether the name still leads to the same file, and the file did not change. `has_ids`: the
    /// numbers of inodes are believed.
    fn is_same(&self, dir: &OwnedFd, has_ids: bool) -> io::Result<bool> {
        let now = Meta::at(dir, &self.name).if_there()?;
        let now = now.filter(|meta| meta.file_type() == FileType::RegularFile);
        Ok(match (&self.file, now) {
            (Some((_, was)), Some(now)) => {
                self.shows
                    && (!has_ids || was.id() == now.id())
                    && was.size == now.size
                    && was.modified() == now.modified()
                    && was.changed == now.changed
            }
            (was, now) => was.is_none() && now.is_none(),
        })
    }
}

/// Whether a file is a database, or may become one. A process may be writing to the file.
pub(crate) fn may_be_database(file: &OwnedFd) -> io::Result<bool> {
    let mut head = [0; MAGIC.len()];
    let count = retry_on_intr(|| pread(file, &mut head, 0))?;
    Ok(count == 0 || head == *MAGIC)
}

fn with(name: &CStr, suffix: &[u8]) -> CString {
    // Neither part contains a zero byte.
    CString::new([name.to_bytes(), suffix].concat()).unwrap_or_default()
}

impl Scanner<'_> {
    /// Notes the files of a directory that have a companion. `names` are sorted.
    pub(super) fn note_databases(
        &self,
        worker: &mut ScanWorker,
        dir: &Arc<ScanNode>,
        place: u32,
        names: &[(CString, FileType)],
    ) {
        if self.request.intake.is_none() {
            return;
        }
        for (name, _) in names {
            let bytes = name.to_bytes();
            let Some(of) = bytes.strip_suffix(WAL).or_else(|| bytes.strip_suffix(JOURNAL)) else {
                continue;
            };
            let at = names.binary_search_by(|(name, _)| name.to_bytes().cmp(of));
            if let Ok(at) = at
                && matches!(names[at].1, FileType::RegularFile | FileType::Unknown)
            {
                self.note_database(worker, dir, place, &names[at].0);
            }
        }
    }

    pub(super) fn note_database(
        &self,
        worker: &mut ScanWorker,
        dir: &Arc<ScanNode>,
        place: u32,
        name: &CStr,
    ) {
        if self.request.intake.is_some() {
            let name = name.to_owned();
            worker.databases.push(Candidate { place, dir: Arc::clone(dir), name });
        }
    }

    /// Takes in the databases among the candidates once more, each as a whole. They replace the
    /// entries that the scan found.
    pub(super) fn databases(
        &self,
        mut candidates: Vec<Candidate>,
        scanned: &mut [Option<Scanned>],
        skipped: &mut Vec<Skipped>,
    ) -> Result<Option<Intake>, Error> {
        let Some(noted) = self.request.intake.filter(|_| !candidates.is_empty()) else {
            return Ok(None);
        };
        let mut intake = Intake::noting(noted);
        candidates.sort_by(|a, b| (a.place, &a.name).cmp(&(b.place, &b.name)));
        candidates.dedup_by(|a, b| (a.place, &a.name) == (b.place, &b.name));
        let until = Instant::now() + PATIENCE_WITH_ALL;
        for candidate in &candidates {
            let path = candidate.dir.path();
            let Some(parts) = self.names_of(candidate, &path) else { continue };
            if let Some(directory) = &mut scanned[candidate.place as usize] {
                directory.expand(self.request);
            }
            let until = until.min(Instant::now() + PATIENCE);
            let outcome = self.database(&mut intake, candidate, &path, &parts, scanned, until)?;
            let mut settle = |name: &CStr, what, reason| {
                let path = path.join(os(name.to_bytes()));
                skipped.retain(|skipped| {
                    skipped.path != path
                        || !matches!(skipped.reason, SkipReason::Changing | SkipReason::Vanished)
                });
                let had = self.replace(scanned, candidate.place, name, what);
                if let Some(reason) = reason
                    && (had || name == candidate.name.as_c_str())
                {
                    skipped.push(Skipped { path, reason });
                }
            };
            match outcome {
                DatabaseAttempt::Whole(parts) => {
                    for (name, part) in parts {
                        match part {
                            DatabasePart::AsFound => {}
                            DatabasePart::Absent => settle(&name, None, None),
                            DatabasePart::New(what) => settle(&name, Some(what), None),
                        }
                    }
                }
                DatabaseAttempt::Changed => {
                    for name in &parts {
                        settle(name, None, Some(SkipReason::Changing));
                    }
                }
                DatabaseAttempt::Vanished => {
                    settle(&candidate.name, None, Some(SkipReason::Vanished));
                }
                DatabaseAttempt::NoDatabase => {}
            }
        }
        Ok(Some(intake))
    }

    /// The names of a database's files, without those that the snapshot leaves out. `None` if it
    /// leaves out the database itself.
    fn names_of(&self, candidate: &Candidate, path: &Path) -> Option<Vec<CString>> {
        let is_in = |name: &CStr| {
            let chain = candidate.dir.chain.as_ref();
            !chain.is_some_and(|chain| chain.excludes(&path.join(os(name.to_bytes())), false))
        };
        is_in(&candidate.name).then(|| {
            let name = &candidate.name;
            let mut names = vec![name.clone(), with(name, JOURNAL), with(name, WAL)];
            names.retain(|name| is_in(name));
            names
        })
    }

    fn database(
        &self,
        intake: &mut Intake,
        candidate: &Candidate,
        path: &Path,
        names: &[CString],
        scanned: &[Option<Scanned>],
        until: Instant,
    ) -> Result<DatabaseAttempt, Error> {
        loop {
            self.request.operation.check(Operation::Read, self.request.path)?;
            let attempt = self
                .attempt(intake, candidate, path, names, scanned)
                .context(Operation::TakeIn, || {
                    self.full_path(&candidate.dir.path_of(&candidate.name))
                })?;
            if !matches!(attempt, DatabaseAttempt::Changed) || Instant::now() >= until {
                return Ok(attempt);
            }
            thread::sleep(PAUSE);
        }
    }

    fn attempt(
        &self,
        intake: &mut Intake,
        candidate: &Candidate,
        path: &Path,
        names: &[CString],
        scanned: &[Option<Scanned>],
    ) -> io::Result<DatabaseAttempt> {
        let Some(directory) = &scanned[candidate.place as usize] else {
            return Ok(DatabaseAttempt::NoDatabase);
        };
        let Some(dir) = self.open_below(path)? else { return Ok(DatabaseAttempt::Vanished) };
        let id = Meta::of_file(&dir)?.id();
        let has_ids = self.request.operation.filesystems().of(&dir, id.0).inodes;
        if has_ids && id != (directory.inode.dev, directory.inode.ino) {
            return Ok(DatabaseAttempt::Vanished);
        }
        let mut looks = Vec::with_capacity(names.len());
        for name in names {
            looks.push(DatabaseLook::at(&dir, name)?);
        }
        let Some((file, _)) = &looks[0].file else { return Ok(DatabaseAttempt::Vanished) };
        let mut head = [0; MAGIC.len()];
        let count = retry_on_intr(|| pread(file, &mut head, 0))?;
        // An empty database has a journal while its first transaction runs.
        let is_new = count == 0 && looks[1..].iter().any(|look| look.file.is_some());
        if !is_new && head != *MAGIC {
            return Ok(DatabaseAttempt::NoDatabase);
        }
        // All files but the last one must be at rest until the last one is taken in. The last one
        // is the log if there is a log, and the journal otherwise.
        if looks.last().is_some_and(|look| look.file.is_none()) {
            looks[1..].reverse();
        }
        let (last, others) = looks.split_last().unwrap_or((&looks[0], &looks));
        // A database without companions is itself the last file, and must also be at rest.
        let others = if others.is_empty() { &looks[..] } else { others };
        if !others.iter().all(|look| look.shows) {
            return Ok(DatabaseAttempt::Changed);
        }
        let mut parts = DatabaseParts::new();
        for look in others.iter().chain((looks.len() > 1).then_some(last)) {
            let Some((file, meta)) = &look.file else {
                parts.push((look.name.clone(), DatabasePart::Absent));
                continue;
            };
            let found = self.position(scanned, candidate.place, &look.name);
            let found = found.ok().map(|at| &directory.found()[at]);
            if found.is_some_and(|found| self.holds(found, meta)) {
                parts.push((look.name.clone(), DatabasePart::AsFound));
                continue;
            }
            let stop = || self.request.operation.is_cancelled();
            let wanted = Wanted { name: look.name.clone(), at: 0, known: None };
            match self
                .content(
                    (intake, &mut Mentions::of(self.request)),
                    &candidate.dir,
                    file,
                    *meta,
                    &wanted,
                    &stop,
                )?
                .0
            {
                Ok(what) => parts.push((look.name.clone(), DatabasePart::New(what))),
                Err(_) => return Ok(DatabaseAttempt::Changed),
            }
        }
        for look in others {
            if !look.is_same(&dir, has_ids)? {
                return Ok(DatabaseAttempt::Changed);
            }
        }
        Ok(DatabaseAttempt::Whole(parts))
    }

    /// Opens a directory of the tree again. `None` if it is gone.
    fn open_below(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let mut dir = fs::openat(self.request.root, c".", DIR_FLAGS, Mode::empty())?;
        for name in path {
            match fs::openat(&dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(below) => dir = below,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(dir))
    }

    /// Whether the entry that was found still has the content of the file: every change since then
    /// would show.
    fn holds(&self, found: &What, meta: &Meta) -> bool {
        let stamp = (self.request.stamp.0, i64::from(self.request.stamp.1));
        let (What::Same(_, inode) | What::Other(_, inode) | What::Kept(_, inode)) = found else {
            return false;
        };
        inode.stat() == Stat::of(meta) && inode.dev == meta.dev && meta.changed < stamp
    }

    fn name_of<'a>(
        &'a self,
        scanned: &'a [Option<Scanned>],
        directory: &'a Scanned,
        found: &'a What,
    ) -> Option<&'a [u8]> {
        match found {
            What::Same(slot, _) => {
                let base = self.request.base?.directories.get(directory.base? as usize)?;
                Some(&base.entries.get(*slot as usize)?.name)
            }
            What::Other(entry, _) => Some(&entry.name),
            What::Kept(at, _) => Some(&directory.others.get(*at as usize)?.name),
            What::Directory(place) => Some(&scanned[*place as usize].as_ref()?.own.name),
            What::Pending => None,
        }
    }

    /// The position of an entry among the entries that were found in its directory, or the position
    /// where it belongs.
    fn position(
        &self,
        scanned: &[Option<Scanned>],
        place: u32,
        name: &CStr,
    ) -> Result<usize, usize> {
        let Some(directory) = &scanned[place as usize] else { return Err(0) };
        for (at, found) in directory.found().iter().enumerate() {
            match self.name_of(scanned, directory, found).map(|is| is.cmp(name.to_bytes())) {
                Some(std::cmp::Ordering::Equal) => return Ok(at),
                Some(std::cmp::Ordering::Greater) => return Err(at),
                Some(std::cmp::Ordering::Less) | None => {}
            }
        }
        Err(directory.found().len())
    }

    /// Replaces the entry that was found under a name. Returns whether there was one.
    fn replace(
        &self,
        scanned: &mut [Option<Scanned>],
        place: u32,
        name: &CStr,
        what: Option<What>,
    ) -> bool {
        let position = self.position(scanned, place, name);
        let Some(directory) = &mut scanned[place as usize] else { return false };
        let Listed::Each(found) = &mut directory.found else { return false };
        match (position, what) {
            (Ok(at), what) => found[at] = what.unwrap_or(What::Pending),
            (Err(at), Some(what)) => found.insert(at, what),
            (Err(_), None) => return false,
        }
        true
    }
}
