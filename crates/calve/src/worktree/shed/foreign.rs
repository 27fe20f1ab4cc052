//! Finds what keeps a folder of a sure kind, at any depth: what no build and no install writes, or
//! what calve could not remove.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::process::geteuid;

use super::kind::{CMAKE_SOURCES, ShedKind, SureKind, is_of_tool};
use crate::error::Error;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::at;
use crate::store::format::is_of_calve;
use crate::store::layout::{FORMAT, GIT};
use crate::tree::read::open_unnoted;
use crate::tree::visit::{Found, Visitor};

/// Files and folders that only a repository has.
const REPOSITORIES: [&str; 11] = [
    ".bzr",
    ".fslckout",
    ".git",
    ".hg",
    ".jj",
    ".pijul",
    ".sl",
    ".svn",
    "CVS",
    "_FOSSIL_",
    "_darcs",
];
/// The endings of files that hold data of a user.
const DATABASES: [&str; 17] = [
    "accdb", "db", "db3", "duckdb", "fdb", "fossil", "kdbx", "ldf", "mdb", "mdf", "ndf", "rdb",
    "realm", "redb", "sdf", "sqlite", "sqlite3",
];
/// The ends of names of files that a SQLite database has beside it.
const JOURNALS: [&[u8]; 3] = [b"-journal", b"-shm", b"-wal"];
/// Files that only the folder of a database has: of servers, and of LevelDB and RocksDB.
const SERVERS: [&str; 4] = ["CURRENT", "PG_VERSION", "WiredTiger", "ibdata1"];
const MANIFEST: &[u8] = b"MANIFEST-";
/// Files and folders of Python environments.
const ENVIRONMENTS: [&str; 2] = ["conda-meta", "pyvenv.cfg"];
/// The bytes by which databases know their own files, and where they are: SQLite, DuckDB, redb,
/// LMDB, BoltDB, Realm, Berkeley DB, Access.
const MAGIC: [(usize, &[u8]); 12] = [
    (0, b"SQLite format 3\0"),
    (8, b"DUCK"),
    (0, b"redb\x1a\x0a\xa9\x0d\x0a"),
    (16, &0xbeef_c0de_u32.to_le_bytes()),
    (16, &0xbeef_c0de_u32.to_be_bytes()),
    (16, &0xed0c_daed_u32.to_le_bytes()),
    (16, &0xed0c_daed_u32.to_be_bytes()),
    (16, b"T-DB"),
    (12, &0x0005_3162_u32.to_le_bytes()),
    (12, &0x0006_1561_u32.to_le_bytes()),
    (4, b"Standard Jet DB"),
    (4, b"Standard ACE DB"),
];
const HEAD_BYTES: u64 = 32;

/// Whether a repository of another tool than git has this name.
pub(in crate::worktree) fn is_foreign_repository(name: &OsStr) -> bool {
    name != GIT && REPOSITORIES.iter().any(|it| name == *it)
}

/// Why an entry keeps the folder that it is in. Its name is enough for that.
fn named_foreign(name: &CStr, kind: FileType) -> Option<&'static str> {
    let bytes = name.to_bytes();
    let name = OsStr::from_bytes(bytes);
    let is = |names: &[&str]| names.iter().any(|it| name == *it);
    if is(&REPOSITORIES) {
        return Some("a repository");
    }
    if is(&ENVIRONMENTS) {
        return Some("a Python environment");
    }
    let ending = Path::new(name).extension().and_then(OsStr::to_str);
    let is_database = is(&SERVERS)
        || bytes.starts_with(MANIFEST)
        || JOURNALS.iter().any(|end| bytes.ends_with(end))
        || ending.is_some_and(|it| DATABASES.iter().any(|other| it.eq_ignore_ascii_case(other)));
    match kind {
        FileType::RegularFile if is_database => Some("a database"),
        FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
        _ => Some("a socket, a pipe or a device"),
    }
}

fn is_head_of_database(head: &[u8]) -> bool {
    MAGIC.iter().any(|(at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
}

/// What one thread found in folders, by their numbers.
#[derive(Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u64>,
    /// Why a folder stays, and the path in it.
    pub(super) foreign: HashMap<usize, (&'static str, PathBuf)>,
}

pub(super) struct ContentOf<'a> {
    pub(super) known: &'a [SureKind],
    /// That of the worktree's root.
    pub(super) device: u64,
}

impl ContentOf<'_> {
    fn foreign(&self, found: &Found<'_>) -> Option<&'static str> {
        let (known, kind) = (self.known[found.tree], found.meta.file_type());
        let path = if found.name == c"." { found.path() } else { PathBuf::new() };
        // Of a folder, the name is in its path.
        let name = path.components().next_back().and_then(|it| at::last(Path::new(&it)).ok());
        let name = name.as_deref().unwrap_or(found.name);
        let own = geteuid();
        let is_folder = |name: &str| {
            Meta::at(found.dir, name).is_ok_and(|it| it.file_type() == FileType::Directory)
        };
        let by_name = named_foreign(name, kind);
        match kind {
            _ if by_name.is_some() => by_name,
            // calve could not remove it.
            _ if !own.is_root() && found.meta.uid != own.as_raw() => {
                Some("something of another user")
            }
            FileType::Directory => {
                (found.meta.dev != self.device).then_some("another filesystem or subvolume")
            }
            _ if name == c"HEAD" && is_folder("objects") => Some("a repository"),
            _ if name.to_bytes() == FORMAT.as_bytes()
                && is_of_calve(found.dir, Path::new("")).unwrap_or(true) =>
            {
                Some("a store or a remote of calve")
            }
            _ if known.kind == ShedKind::Cmake && name.to_bytes() == CMAKE_SOURCES.as_bytes() => {
                Some("sources")
            }
            FileType::RegularFile
                if known.installed.is_some_and(|done| found.meta.modified() > done)
                    && !is_of_tool(&found.path()) =>
            {
                Some("a file that was changed after the install")
            }
            FileType::RegularFile => {
                has_database(found).unwrap_or(Some("a file that cannot be read"))
            }
            _ => None,
        }
    }
}

fn has_database(found: &Found<'_>) -> io::Result<Option<&'static str>> {
    if found.meta.size < 12 {
        return Ok(None);
    }
    let file = match open_unnoted(found.dir, found.name, SOURCE_FLAGS) {
        Ok(file) => std::fs::File::from(file),
        Err(errno) if at::is_gone(&errno.into()) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(is_head_of_database(&head).then_some("a database"))
}

impl Visitor<Content> for ContentOf<'_> {
    fn visit(&self, content: &mut Content, found: &Found<'_>) -> Result<(), Error> {
        let bytes = found.meta.blocks.saturating_mul(512);
        if content.bytes.len() <= found.tree {
            content.bytes.resize(found.tree + 1, 0);
        }
        content.bytes[found.tree] += bytes;
        // One is enough, and files need not be opened any more.
        if !content.foreign.contains_key(&found.tree)
            && let Some(why) = self.foreign(found)
        {
            // Without the dot that is a folder's own name.
            let path = found.path().components().collect();
            content.foreign.insert(found.tree, (why, path));
        }
        Ok(())
    }

    fn unreadable(&self, content: &mut Content, tree: usize) {
        content.foreign.entry(tree).or_insert(("a folder that cannot be read", PathBuf::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_build_writes_keeps_a_folder() {
        for (name, kind, expected) in [
            (c"a.o", FileType::RegularFile, false),
            (c"index.js", FileType::RegularFile, false),
            (c"app.db", FileType::RegularFile, true),
            (c"APP.SQLITE3", FileType::RegularFile, true),
            (c"state-wal", FileType::RegularFile, true),
            (c"app.duckdb", FileType::RegularFile, true),
            (c"MANIFEST-000001", FileType::RegularFile, true),
            (c"mime.db", FileType::Directory, false),
            (c"PG_VERSION", FileType::RegularFile, true),
            (c"pyvenv.cfg", FileType::RegularFile, true),
            (c"conda-meta", FileType::Directory, true),
            (c".git", FileType::Directory, true),
            (c".git", FileType::RegularFile, true),
            (c".jj", FileType::Directory, true),
            (c".hg", FileType::Directory, true),
            (c"_FOSSIL_", FileType::RegularFile, true),
            (c"x.sock", FileType::Socket, true),
            (c"pipe", FileType::Fifo, true),
            (c"disk", FileType::BlockDevice, true),
            (c"link", FileType::Symlink, false),
        ] {
            assert_eq!(named_foreign(name, kind).is_some(), expected, "{name:?} {kind:?}");
        }
    }

    #[test]
    fn a_database_is_known_by_its_first_bytes() {
        let lmdb = [&[0; 16][..], &0xbeef_c0de_u32.to_le_bytes()].concat();
        let bolt = [&[0; 16][..], &0xed0c_daed_u32.to_le_bytes(), &[0; 9]].concat();
        for (head, expected) in [
            (&b""[..], false),
            (b"\x7fELF\x02\x01\x01", false),
            (b"SQLite format 2\0rest", false),
            (b"SQLite format 3\0rest", true),
            (b"12345678DUCK", true),
            (&lmdb, true),
            (&lmdb[1..], false),
            (&bolt, true),
        ] {
            assert_eq!(is_head_of_database(head), expected, "{head:?}");
        }
    }
}
