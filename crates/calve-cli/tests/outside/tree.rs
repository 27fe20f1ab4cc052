//! Trees to clone, and the states of trees.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// The attribute that files of the test trees have.
const ATTRIBUTE: &str = "user.calve";

/// Everything about an entry that must arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    content: Vec<u8>,
    attribute: Option<Vec<u8>>,
    /// The first path of the same inode.
    first: PathBuf,
}

pub(super) type State = BTreeMap<PathBuf, Entry>;

/// The same state, but all times since `began` count as equal: they are times of changes.
pub(super) fn without_new_times(mut state: State, began: SystemTime) -> State {
    let began = began.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    for entry in state.values_mut().filter(|entry| entry.modified.0 >= began) {
        entry.modified = (i64::MAX, 0);
    }
    state
}

/// The state of a whole tree, with its root (as the empty path), and without calve's own files.
pub(super) fn state(root: &Path) -> State {
    fn below(root: &Path, path: &Path, firsts: &mut BTreeMap<u64, PathBuf>, state: &mut State) {
        let full = root.join(path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let mut value = [0; 256];
        let attribute = rustix::fs::lgetxattr(&full, ATTRIBUTE, &mut value[..]);
        let first = firsts.entry(meta.ino()).or_insert_with(|| path.to_owned()).clone();
        let content = if kind.is_file() {
            fs::read(&full).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        let entry = Entry {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            content,
            attribute: attribute.ok().map(|length| value[..length].to_vec()),
            first: if kind.is_dir() { PathBuf::new() } else { first },
        };
        state.insert(path.to_owned(), entry);
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names.into_iter().filter(|name| name != ".calve") {
                below(root, &path.join(name), firsts, state);
            }
        }
    }
    let mut found = State::new();
    below(root, Path::new(""), &mut BTreeMap::new(), &mut found);
    found
}

/// The state of a project or a worktree. It does not include the root, in which calve makes its own
/// folder, or the times of folders, which change when somebody works in them.
pub(super) fn work(root: &Path) -> State {
    let mut found = state(root);
    found.remove(Path::new(""));
    for entry in found.values_mut().filter(|entry| entry.is_dir()) {
        entry.modified = (0, 0);
    }
    found
}

/// The differences, in words; empty if there are none.
pub(super) fn difference(wanted: &State, got: &State) -> String {
    let mut lines = Vec::new();
    for path in wanted.keys().chain(got.keys().filter(|path| !wanted.contains_key(*path))) {
        match (wanted.get(path), got.get(path)) {
            (Some(wanted), Some(got)) if wanted == got => {}
            (Some(wanted), Some(got)) => {
                let brief = |entry: &Entry| {
                    let length = entry.content.len();
                    Entry { content: Vec::new(), ..entry.clone() }.describe(length)
                };
                let same = if wanted.content == got.content { "same" } else { "OTHER" };
                lines.push(format!(
                    "{path:?}: {} is {} ({same} content)",
                    brief(wanted),
                    brief(got)
                ));
            }
            (Some(_), None) => lines.push(format!("{path:?} is missing")),
            (None, _) => lines.push(format!("{path:?} is too many")),
        }
    }
    lines.join("; ")
}

impl Entry {
    fn describe(&self, length: usize) -> String {
        let Self { mode, owner, modified, attribute, first, .. } = self;
        format!("[{mode:o} {owner:?} {modified:?} {length} bytes {attribute:?} {first:?}]")
    }

    pub(super) fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// For a directory, the part that stays if something in it is made again.
    pub(super) fn without_folder_times(&self) -> Self {
        let modified = if self.is_dir() { (0, 0) } else { self.modified };
        Self { modified, ..self.clone() }
    }

    pub(super) fn same_file(&self, other: &Self) -> bool {
        self.mode == other.mode && self.content == other.content && self.modified == other.modified
    }
}

/// Sets the modification time of the entry at `path` itself, even if it is a link.
pub(super) fn set_mtime(path: &Path, seconds: u64) {
    let time = Timespec { tv_sec: 1_500_000_000 + seconds as i64, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with one entry for each kind of system call that changes files. Every content contains
/// `word`.
pub(super) fn one_of_everything(root: &Path, word: &str) {
    fs::create_dir(root).unwrap();
    fs::create_dir_all(root.join("dir/closed")).unwrap();
    let mut files = Vec::new();
    for number in 0..8_usize {
        let name = if number < 6 { format!("f{number}") } else { format!("dir/f{number}") };
        files.push((name, format!("{word} {number}\n").repeat(700 + number)));
    }
    files.push(("big".to_owned(), format!("{word}, and a lot of it\n").repeat(20_000)));
    files.push(("dir/closed/inner".to_owned(), word.to_owned()));
    files.push(("empty".to_owned(), String::new()));
    for (at, (name, content)) in files.iter().enumerate() {
        let path = root.join(name);
        fs::write(&path, content).unwrap();
        let mode = [0o644, 0o600, 0o755, 0o664, 0o4755][at % 5];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(&path, at as u64);
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, word.as_bytes(), 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    drop(sparse);
    for name in ["f1", "dir/f6", "dir"] {
        let _ =
            rustix::fs::setxattr(root.join(name), ATTRIBUTE, word.as_bytes(), XattrFlags::empty());
    }
    fs::hard_link(root.join("f2"), root.join("hard")).unwrap();
    fs::hard_link(root.join("f2"), root.join("dir/hard")).unwrap();
    symlink("f0", root.join("link")).unwrap();
    symlink("/nowhere", root.join("dir/dangling")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    fs::set_permissions(root.join("dir/closed"), fs::Permissions::from_mode(0o555)).unwrap();
    if super::is_root() {
        std::os::unix::fs::chown(root.join("f3"), Some(1234), Some(4321)).unwrap();
    }
    for (at, name) in ["sparse", "link", "dir/dangling", "fifo"].into_iter().enumerate() {
        set_mtime(&root.join(name), 90 + at as u64);
    }
    set_mtime(&root.join("dir/closed"), 100);
    set_mtime(&root.join("dir"), 101);
    set_mtime(root, 102);
}

/// Removes a tree, closed directories in it included. A background process of the last command may
/// still be closing its database there.
pub(super) fn remove_tree(root: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    let mut stack = vec![root.to_owned()];
    while let Some(directory) = stack.pop() {
        let _ = fs::set_permissions(&directory, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
        }
    }
    loop {
        match fs::remove_dir_all(root) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            removed => return removed.unwrap(),
        }
    }
}

/// `count` files, about a hundred in each directory, of `size` bytes or a little more. Every file
/// contains `word`.
pub(super) fn many_files(root: &Path, count: usize, size: usize, word: &str) {
    for number in 0..count {
        let directory = root.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&directory).unwrap();
        }
        fs::write(directory.join(format!("f{number}")), content(number, size, word)).unwrap();
    }
}

/// What [`many_files`] writes to file `number`.
pub(super) fn content(number: usize, size: usize, word: &str) -> Vec<u8> {
    let line = format!("{word} {number}\n");
    line.repeat(size / line.len() + 1).into_bytes()
}
