//! Symbolic links that lead out of a tree, from where the way leads back: bazel's links to its
//! output, whose sources are links into the project, and relative links that step out of the root
//! and in again. A worktree has them as they are, so what runs through them is the project's.
//!
//! A relative link that leads out and not back leads elsewhere from a worktree, or nowhere.
//!
//! calve follows each such link once, and looks at the folder that it leads to, without going
//! deeper. What it cannot follow leads nowhere for this user, and so not back.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;

use super::PathKind;
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

/// Looks for links that lead out of one tree.
#[derive(Debug)]
pub(crate) struct LinksOut {
    /// The tree's root, without links.
    root: PathBuf,
    followed: HashMap<PathBuf, Option<PathKind>>,
}

impl LinksOut {
    pub(crate) fn of(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        Self { root, followed: HashMap::new() }
    }

    /// The kind of the link at `path`, in the tree, if it leads out of it. `None` also for an
    /// absolute one that does not lead back: it leads to the same place from everywhere. `roots` are
    /// the spellings of the root: a link that leads straight to one of them is an absolute link into
    /// the tree. So is one to the tree's own root, where the spellings are those of another tree.
    pub(crate) fn kind_of(
        &mut self,
        path: &Path,
        target: &[u8],
        roots: &[Vec<u8>],
    ) -> Option<PathKind> {
        let is_absolute = target.starts_with(b"/");
        let is_in_project = is_below_any(target, roots);
        let target = Path::new(OsStr::from_bytes(target));
        if is_absolute && (is_in_project || target.starts_with(&self.root)) {
            return None;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        if !is_absolute && !steps_out(folder, target) {
            return None;
        }
        if is_absolute && is_of_bazel(path) && target.iter().any(|part| part == EXECUTION_ROOT) {
            return Some(PathKind::LinkBack);
        }
        let target = self.root.join(folder).join(target);
        if let Some(known) = self.followed.get(&target) {
            return *known;
        }
        if self.followed.len() >= LINKS_MOST {
            return None;
        }
        let kind = match self.leads_back(&target, roots) {
            true => Some(PathKind::LinkBack),
            // One that leads nowhere already does no worse in a worktree.
            false => (!is_absolute && fs::metadata(&target).is_ok()).then_some(PathKind::LinkOut),
        };
        self.followed.insert(target, kind);
        kind
    }

    fn leads_back(&self, target: &Path, roots: &[Vec<u8>]) -> bool {
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

/// Whether the file at `path`, with this text, lists places outside of the tree from which a
/// repository of git borrows objects, by relative paths.
pub(crate) fn borrows_from_outside(path: &Path, text: &[u8]) -> bool {
    let Some(objects) = path.ancestors().nth(2).filter(|it| it.ends_with(".git/objects")) else {
        return false;
    };
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"/"));
    lines.any(|line| steps_out(objects, Path::new(OsStr::from_bytes(line))))
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
        let mut links = LinksOut::of(&app);
        let (back, out) = (Some(PathKind::LinkBack), Some(PathKind::LinkOut));
        for (path, target, expected) in [
            ("bazel-bin", at("cache/execroot/_main/bin"), back),
            ("out", at("cache/execroot/_main"), back),
            ("bin", at("cache/execroot/_main/bin"), None),
            ("to", at("to-src"), back),
            ("link", at("app/src"), None),
            ("up", b"../app/src".to_vec(), back),
            ("src/deep/up", b"../../../app/src".to_vec(), back),
            ("src/deep/in", b"../../src".to_vec(), None),
            ("through", b"../current/src".to_vec(), back),
            ("beside", b"../plain".to_vec(), out),
            ("src/beside", b"../../plain".to_vec(), out),
            ("dangling", b"../nowhere".to_vec(), None),
            ("gone", at("plain/broken"), None),
            ("system", b"/usr".to_vec(), None),
        ] {
            assert_eq!(links.kind_of(Path::new(path), &target, &roots), expected, "{path}");
        }
        let of_another = [b"/another".to_vec()];
        assert_eq!(links.kind_of(Path::new("own"), &at("app/src"), &of_another), None);
        for (path, text, expected) in [
            ("n/.git/objects/info/alternates", "../../../../alt/.git/objects\n", true),
            ("n/.git/objects/info/alternates", "# a\n/alt/objects\n../../../../../a\n", true),
            ("n/.git/objects/info/alternates", "../../../alt/.git/objects\n", false),
            ("n/.git/objects/info/alternates", "/../../../../alt\n", false),
            ("n/info/alternates", "../../../../alt\n", false),
        ] {
            let found = borrows_from_outside(Path::new(path), text.as_bytes());
            assert_eq!(found, expected, "{path} {text}");
        }
    }
}
