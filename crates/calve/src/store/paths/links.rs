//! Symbolic links that lead out of a tree, from where the way leads back: bazel's links to its
//! output, whose sources are links into the project, and relative links that step out of the root
//! and in again. A worktree has them as they are, so what runs through them is the project's.
//!
//! calve follows each such link once, and looks at the folder that it leads to, without going
//! deeper. What it cannot follow leads nowhere for this user, and so not back.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;

use super::found::is_below_any;
use super::kinds::is_of_bazel;

/// How many links that lead out of a tree are followed.
const LINKS_MOST: usize = 1024;
/// How many entries of a folder outside are looked at.
const ENTRIES_MOST: usize = 256;
/// The folder of bazel that has the sources of a project as links, and what is built of them.
const EXECUTION_ROOT: &str = "execroot";

/// Whether a link with this target may leave its tree, before anything is known of its place.
pub(crate) fn may_lead_out(target: &[u8]) -> bool {
    target.starts_with(b"/") || target.starts_with(b"..") || memmem::find(target, b"/..").is_some()
}

/// Looks for links that lead out of one tree and back.
#[derive(Debug)]
pub(crate) struct LinksBack {
    /// The tree's root, without links.
    root: PathBuf,
    followed: HashMap<PathBuf, bool>,
}

impl LinksBack {
    pub(crate) fn of(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        Self { root, followed: HashMap::new() }
    }

    /// Whether the link at `path`, in the tree, leads out of it and back. `roots` are the spellings
    /// of the root: a link that leads straight to one of them is an absolute link into the tree.
    pub(crate) fn leads_back(&mut self, path: &Path, target: &[u8], roots: &[Vec<u8>]) -> bool {
        let is_absolute = target.starts_with(b"/");
        if is_absolute && is_below_any(target, roots) {
            return false;
        }
        let target = Path::new(OsStr::from_bytes(target));
        let folder = path.parent().unwrap_or(Path::new(""));
        if !is_absolute && !steps_out(folder, target) {
            return false;
        }
        if is_absolute && is_of_bazel(path) && target.iter().any(|part| part == EXECUTION_ROOT) {
            return true;
        }
        let target = self.root.join(folder).join(target);
        if let Some(known) = self.followed.get(&target) {
            return *known;
        }
        if self.followed.len() >= LINKS_MOST {
            return false;
        }
        let leads = self.follow(&target, roots);
        self.followed.insert(target, leads);
        leads
    }

    fn follow(&self, target: &Path, roots: &[Vec<u8>]) -> bool {
        let is_ours = |path: &Path| {
            fs::canonicalize(path).is_ok_and(|path| {
                path.starts_with(&self.root) || is_below_any(path.as_os_str().as_bytes(), roots)
            })
        };
        if is_ours(target) {
            return true;
        }
        let Ok(entries) = fs::read_dir(target) else { return false };
        entries.take(ENTRIES_MOST).filter_map(Result::ok).any(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_symlink()) && is_ours(&entry.path())
        })
    }
}

/// Whether a relative link in `folder` steps above the root of the tree.
fn steps_out(folder: &Path, target: &Path) -> bool {
    let mut depth = folder.components().count();
    for step in target.components() {
        match step {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_leads_out_and_back_is_known_and_others_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(scratch.path()).unwrap();
        let (app, out) = (top.join("app"), top.join("cache/execroot/_main"));
        for folder in [app.join("src/deep"), out.join("bin"), top.join("plain")] {
            fs::create_dir_all(folder).unwrap();
        }
        symlink(app.join("src"), out.join("src")).unwrap();
        symlink(app.join("src"), top.join("to-src")).unwrap();
        symlink("app", top.join("current")).unwrap();
        symlink("nowhere", top.join("plain/broken")).unwrap();
        let at = |path: &str| top.join(path).into_os_string().into_encoded_bytes();
        let roots = [app.as_os_str().as_bytes().to_vec()];
        let mut links = LinksBack::of(&app);
        for (path, target, expected) in [
            ("bazel-bin", at("cache/execroot/_main/bin"), true),
            ("out", at("cache/execroot/_main"), true),
            ("bin", at("cache/execroot/_main/bin"), false),
            ("to", at("to-src"), true),
            ("link", at("app/src"), false),
            ("up", b"../app/src".to_vec(), true),
            ("src/deep/up", b"../../../app/src".to_vec(), true),
            ("src/deep/in", b"../../src".to_vec(), false),
            ("through", b"../current/src".to_vec(), true),
            ("beside", b"../plain".to_vec(), false),
            ("gone", at("plain/broken"), false),
            ("system", b"/usr".to_vec(), false),
        ] {
            assert_eq!(links.leads_back(Path::new(path), &target, &roots), expected, "{path}");
        }
    }
}
