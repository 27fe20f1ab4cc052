//! Decides which entries calve clones, by their names, before it opens anything.
//!
//! Patterns have the meaning that they have in a `.gitignore`. If calve reads the tree's own
//! `.gitignore` files, the deepest one with a matching line decides. An exclude pattern always
//! excludes; an include pattern overrides both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use self::patterns::IgnoreChain;
use self::patterns::Patterns;
use super::{Callback, CloneOptions, PathTest};
use crate::error::Error;

#[cfg(feature = "patterns")]
mod patterns;
#[cfg(not(feature = "patterns"))]
#[path = "filter/no_patterns.rs"]
mod patterns;

/// The compiled patterns of one operation.
#[derive(Debug)]
pub(crate) struct Filter {
    exclude: Patterns,
    include: Patterns,
    /// Matches the directories that lead to an include pattern with a path. calve enters them even
    /// if they are excluded.
    leads_to_include: Patterns,
    mutable: Patterns,
    exclude_if: Option<Callback<PathTest>>,
    mutable_if: Option<Callback<PathTest>>,
    gitignore: bool,
    /// The paths that git tracks in each repository of the source: an ignore file does not mean them.
    tracked: RwLock<BTreeMap<PathBuf, BTreeSet<Vec<u8>>>>,
    trivial: bool,
    #[cfg(unix)]
    picked: Option<Arc<super::pick::Picked>>,
}

/// The filter's decision on an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    /// Make the directory only for the entries below it that are included.
    Enter,
    Leave,
}

impl Filter {
    pub(crate) fn new(options: &CloneOptions) -> Result<Self, Error> {
        #[cfg(unix)]
        let picks = options.picked.is_some();
        #[cfg(not(unix))]
        let picks = false;
        Ok(Self {
            exclude: Patterns::compile(&options.exclude)?,
            include: Patterns::compile(&options.include)?,
            leads_to_include: Patterns::leading_to(&options.include)?,
            mutable: Patterns::compile(&options.mutable)?,
            gitignore: options.gitignore,
            tracked: RwLock::default(),
            trivial: options.exclude.is_empty()
                && options.exclude_if.is_none()
                && !options.gitignore
                && !picks,
            exclude_if: options.exclude_if.clone(),
            mutable_if: options.mutable_if.clone(),
            #[cfg(unix)]
            picked: options.picked.clone(),
        })
    }

    /// Learns what git tracks in the repository `git` of the working tree at `path` in the source.
    ///
    /// # Errors
    /// calve does not understand git's index. Without it, files that git tracks would be left out.
    #[cfg(all(unix, feature = "git-index"))]
    pub(super) fn learn_index(
        &self,
        git: &std::os::fd::OwnedFd,
        path: PathBuf,
    ) -> std::io::Result<()> {
        let unknown = || {
            let why = "calve cannot read git's index of this tree, so it does not know which ignored files git tracks \
                       ('git update-index --no-split-index' helps if the index is split)";
            std::io::Error::other(why)
        };
        let tracked = super::git_index::tracked(git).ok_or_else(unknown)?;
        self.tracked.write().unwrap_or_else(PoisonError::into_inner).insert(path, tracked);
        Ok(())
    }

    /// Whether the filter keeps every entry.
    pub(super) fn keeps_everything(&self) -> bool {
        self.trivial
    }

    pub(super) fn reads_ignore_files(&self) -> bool {
        self.gitignore
    }

    /// Decides on the entry at `path`, relative to the source. Its directory is kept, or
    /// (`inside_excluded`) only entered.
    pub(crate) fn decide(
        &self,
        path: &Path,
        is_dir: bool,
        inside_excluded: bool,
        chain: Option<&Arc<IgnoreChain>>,
    ) -> Decision {
        #[cfg(unix)]
        if let Some(picked) = &self.picked {
            return picked.decide(path, is_dir, inside_excluded);
        }
        let is_excluded = |path: &Path, is_dir| {
            self.exclude.match_path(path, is_dir)
                || self.exclude_if.as_ref().is_some_and(|Callback(test)| test(path))
        };
        let excluded = inside_excluded
            || is_excluded(path, is_dir)
            || chain.is_some_and(|chain| !is_gits_own(path) && chain.excludes(path, is_dir));
        if !excluded || self.include.match_path(path, is_dir) {
            return Decision::Keep;
        }
        let is_tracked = self.tracks(path, is_dir);
        if is_tracked != Decision::Leave
            && !is_excluded(path, is_dir)
            && !path.ancestors().skip(1).any(|above| is_excluded(above, true))
        {
            is_tracked
        } else if is_dir && self.leads_to_include.match_path(path, true) {
            Decision::Enter
        } else {
            Decision::Leave
        }
    }

    /// What becomes of an ignored entry because git tracks it, or something in it.
    fn tracks(&self, path: &Path, is_dir: bool) -> Decision {
        let indexes = self.tracked.read().unwrap_or_else(PoisonError::into_inner);
        let index = |root: &Path| Some((indexes.get(root)?, path.strip_prefix(root).ok()?));
        // The innermost repository around the entry.
        let Some((tracked, path)) = path.ancestors().skip(1).find_map(index) else {
            return Decision::Leave;
        };
        let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
        if tracked.contains(&bytes) {
            return Decision::Keep;
        }
        bytes.push(b'/');
        match is_dir && any_starts_with(tracked, &bytes) {
            true => Decision::Enter,
            false => Decision::Leave,
        }
    }

    /// Whether the file at `path` must be a copy of its own in the link modes.
    pub(crate) fn is_mutable(&self, path: &Path) -> bool {
        self.mutable_if.as_ref().is_some_and(|Callback(test)| test(path))
            || self.mutable.match_path(path, false)
            || path.ancestors().skip(1).any(|above| self.mutable.match_path(above, true))
    }

    pub(super) fn has_mutable(&self) -> bool {
        !self.mutable.is_empty() || self.mutable_if.is_some()
    }
}

/// Whether the path is in a `.git`. Ignore files do not apply there: neither `*` nor `logs/` means
/// the files of the repository itself.
fn is_gits_own(path: &Path) -> bool {
    path.iter().any(|name| name == ".git")
}

/// Whether one of these paths starts with some bytes.
pub(crate) fn any_starts_with(paths: &BTreeSet<Vec<u8>>, start: &Vec<u8>) -> bool {
    paths.range::<Vec<u8>, _>(start..).next().is_some_and(|first| first.starts_with(start))
}

#[cfg(all(test, feature = "patterns"))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn patterns_mean_what_they_mean_to_git_and_includes_reach_into_excluded_directories() {
        use Decision::{Enter, Keep, Leave};
        type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a str, bool, Decision);
        let rows: &[Row<'_>] = &[
            (&[], &[], "a", false, Keep),
            (&["target"], &[], "target", true, Leave),
            (&["target"], &[], "a/target", true, Leave),
            (&["/target"], &[], "a/target", true, Keep),
            (&["target/"], &[], "target", false, Keep),
            (&["*.log"], &[], "a/b.log", false, Leave),
            (&["a/**/z"], &[], "a/b/c/z", false, Leave),
            (&["*.log"], &["keep.log"], "keep.log", false, Keep),
            (&["target"], &["target/debug/x"], "target", true, Enter),
            (&["target"], &["target/debug/x"], "target/debug", true, Enter),
            (&["target"], &["target/debug/x"], "target/debug/x", false, Keep),
            (&["target"], &["target/debug/x"], "target/release", true, Leave),
            (&["target"], &["target/[!x]ebug/x"], "target/debug", true, Enter),
            (&["target"], &["target/[!/x]ebug/x"], "target/debug", true, Enter),
            (&["target"], &["target/[!x]ebug/x"], "target/debug/x", false, Keep),
            (&["a[!x]b"], &[], "a/b", false, Keep),
            (&["a[!x]b"], &[], "deep/acb", false, Leave),
            (&["{a,b}"], &[], "a", false, Keep),
            (&["{a,b}"], &[], "{a,b}", false, Leave),
        ];
        for (exclude, include, path, is_dir, expected) in rows {
            let mut options = CloneOptions::new();
            for glob in *exclude {
                options = options.exclude(*glob);
            }
            for glob in *include {
                options = options.include(*glob);
            }
            let filter = Filter::new(&options).unwrap();
            let inside = path.starts_with("target/");
            assert_eq!(
                filter.decide(Path::new(path), *is_dir, inside, None),
                *expected,
                "{exclude:?} {include:?} {path}"
            );
        }
    }

    #[test]
    fn the_deepest_ignore_file_that_says_anything_decides() {
        let top = IgnoreChain::push(None, Path::new(""), b"*.o\n/build\n");
        let deep =
            IgnoreChain::push(Some(Arc::clone(&top)), Path::new("a/b"), b"!keep.o\nlocal/\n");
        let filter = Filter::new(&CloneOptions::new().gitignore(true)).unwrap();
        for (chain, path, is_dir, expected) in [
            (&top, "x.o", false, Decision::Leave),
            (&top, "build", true, Decision::Leave),
            (&top, "a/build", true, Decision::Keep),
            (&deep, "a/b/x.o", false, Decision::Leave),
            (&deep, "a/b/keep.o", false, Decision::Keep),
            (&deep, "a/b/local", true, Decision::Leave),
            (&deep, "a/b/local", false, Decision::Keep),
        ] {
            assert_eq!(
                filter.decide(Path::new(path), is_dir, false, Some(chain)),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_understood_is_named() {
        for pattern in ["", "!a", "#a", "a[b", "[[:letters:]]", "[[:alpha:]"] {
            let error = Filter::new(&CloneOptions::new().exclude(pattern)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPattern, "{pattern:?}");
            assert_eq!(error.path(), Path::new(pattern));
        }
    }
}
