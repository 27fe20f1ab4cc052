//! A tree as `lstat`, `readlink`, `listxattr`, `read` and `lseek` show it, to compare two of them
//! entry by entry.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

/// All of an entry that a clone must bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// The size of a file.
    pub(crate) size: u64,
    /// A hash of a file's bytes.
    pub(crate) content: u64,
    /// The places in a file that have data and no holes.
    pub(crate) data: Vec<(u64, u64)>,
    /// The target of a symbolic link.
    pub(crate) target: PathBuf,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name, in order, of the same inode within the tree; an entry with one name is its
    /// own.
    pub(crate) first_name: PathBuf,
    /// To tell whether two trees share it; not compared.
    pub(crate) inode: Inode,
}

/// Device and inode number. Any two are equal, because the place of an entry is no part of its
/// identity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode(pub(crate) u64, pub(crate) u64);

impl PartialEq for Inode {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Inode {}

impl Inode {
    pub(crate) fn is(self, other: Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

/// The entries of a tree by their paths; the root's is empty.
pub(crate) type Snapshot = BTreeMap<PathBuf, Entry>;

/// Looks at the tree at `root`.
#[track_caller]
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut entries = Snapshot::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let entry = look(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        if entry.kind == Kind::Directory {
            for child in fs::read_dir(&full).unwrap() {
                paths.push(path.join(child.unwrap().file_name()));
            }
        }
        entries.insert(path, entry);
    }
    let mut first_names = HashMap::new();
    for (path, entry) in &mut entries {
        let Inode(dev, ino) = entry.inode;
        entry.first_name.clone_from(first_names.entry((dev, ino)).or_insert_with(|| path.clone()));
    }
    entries
}

fn look(path: &Path) -> io::Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_socket() => Kind::Socket,
        _ => Kind::Device,
    };
    let (content, data) = if kind == Kind::File {
        let file = fs::File::open(path)?;
        (hash(&file)?, data_map(&file, meta.size())?)
    } else {
        (0, Vec::new())
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        size: if kind == Kind::File { meta.size() } else { 0 },
        content,
        data,
        target: if kind == Kind::Symlink { fs::read_link(path)? } else { PathBuf::new() },
        xattrs: xattrs(path)?,
        first_name: PathBuf::new(),
        inode: Inode(meta.dev(), meta.ino()),
    })
}

fn hash(mut file: &fs::File) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&buffer[..length]),
        }
    }
}

fn data_map(file: &fs::File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut map = Vec::new();
    let mut offset = 0;
    while offset < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        offset = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        map.push((data, offset));
    }
    Ok(map)
}

/// The extended attributes of `path` itself.
pub(crate) fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut attrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        // A label that the system gives and takes is no part of the tree, nor is XFS' own view of
        // the ACLs.
        if name == "security.selinux" || name.to_string_lossy().starts_with("trusted.SGI_") {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, &name, &mut value[..])?;
        value.truncate(length);
        attrs.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(attrs)
}

/// In which entries `found` is not as `expected`, a line each.
pub(crate) fn differences(expected: &Snapshot, found: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => lines.push(format!("{path:?} is missing")),
            Some(other) if other != entry => {
                lines.push(format!("{path:?} is not as expected:\n  {entry:?}\n  {other:?}"));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        found
            .keys()
            .filter(|path| !expected.contains_key(*path))
            .map(|path| format!("{path:?} is too much")),
    );
    lines
}

/// Fails unless both are the same in all that is compared.
#[track_caller]
pub(crate) fn assert_same(expected: &Snapshot, found: &Snapshot, what: &str) {
    let lines = differences(expected, found);
    assert!(
        lines.is_empty(),
        "{what}: {} differences:\n{}",
        lines.len(),
        lines[..lines.len().min(12)].join("\n")
    );
}

/// The tree without the entries that `keep` rejects.
pub(crate) fn only(tree: &Snapshot, keep: impl Fn(&Path, &Entry) -> bool) -> Snapshot {
    tree.iter()
        .filter(|(path, entry)| keep(path, entry))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}
