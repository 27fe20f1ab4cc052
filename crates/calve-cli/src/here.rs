//! What calve finds in the current folder, for those who ask nothing in particular: `calve` alone,
//! and `calve doctor` without a path.

use std::path::{Path, PathBuf};

use calve::{Discovered, ErrorKind, Store};

use crate::common::Common;
use crate::failure::stored::store_failure;
use crate::places;
use crate::text::{count, counted, harmless, shell_word, shown};

/// What `calve` alone prints: what it is, and what to do next here.
pub(crate) fn greeting(common: &Common) -> String {
    let (command, why) = Here::look(common).next(None);
    format!(
        "calve gives each coding agent its own copy of your project, with dependencies and build\n\
         output, for almost no disk. Copies share their blocks until one of them writes.\n\
         next: {command}  ({why})\n\
         calve doctor  looks at this folder, and says what calve can do here\n\
         calve --help  lists the commands"
    )
}

/// The current folder's project, store and repository.
pub(crate) struct Here {
    /// The root of the git working tree, if the folder is in one.
    repository: Option<PathBuf>,
    place: Place,
}

enum Place {
    /// No store.
    Bare,
    /// A store that calve cannot use, with the reason.
    Unusable(String),
    /// The project and its store.
    Project { trees: Trees, store: PathBuf },
    /// The name of a worktree, its folder, and its project.
    Worktree { name: String, root: PathBuf, trees: Trees },
}

/// The folders of a project and of its worktrees.
#[derive(Clone)]
pub(crate) struct Trees {
    pub(crate) project: PathBuf,
    pub(crate) worktrees: Vec<PathBuf>,
}

impl Trees {
    fn of(store: &Store) -> Result<Self, calve::Error> {
        let worktrees = store.worktrees()?.iter().map(|tree| tree.path().to_owned()).collect();
        Ok(Self { project: store.project()?, worktrees })
    }
}

impl Place {
    fn of(found: Discovered) -> Result<Self, calve::Error> {
        let trees = Trees::of(&found.store)?;
        if found.is_worktree() {
            let name = found.worktree()?.name().to_owned();
            return Ok(Self::Worktree { name, root: found.root, trees });
        }
        Ok(Self::Project { trees, store: found.store.path().to_owned() })
    }
}

impl Here {
    /// Looks. Never fails: what cannot be used is told.
    pub(crate) fn look(common: &Common) -> Self {
        let current = common.resolve(Path::new("."));
        let repository = places::repository_around(&current);
        let found = match common.store() {
            Some(path) => Store::open(path).and_then(|store| store.find(&current)),
            None => Store::discover(&current),
        };
        let place = found.and_then(Place::of).unwrap_or_else(|error| match error.kind() {
            ErrorKind::StoreNotFound if error.other_path().is_none() => Place::Bare,
            _ => Place::Unusable(store_failure(&error).message()),
        });
        Self { repository, place }
    }

    /// The project here, and its worktrees. `None`: there is neither a store that can be used nor a
    /// repository.
    pub(crate) fn trees(&self) -> Option<Trees> {
        match &self.place {
            Place::Project { trees, .. } | Place::Worktree { trees, .. } => Some(trees.clone()),
            Place::Bare | Place::Unusable(_) => {
                let project = self.repository.clone()?;
                Some(Trees { project, worktrees: Vec::new() })
            }
        }
    }

    /// The command that comes next, and what it does. `shares` says whether files here can share
    /// their blocks, if that was asked.
    pub(crate) fn next(&self, shares: Option<bool>) -> (String, &'static str) {
        match &self.place {
            Place::Worktree { .. } => {
                ("calve status".into(), "lists what changed in this worktree")
            }
            Place::Project { .. } => {
                ("calve start NAME".into(), "makes a worktree of this project as it stands")
            }
            Place::Unusable(_) => ("calve list".into(), "says why the store cannot be used"),
            Place::Bare if shares == Some(false) && cfg!(target_os = "linux") => (
                "calve volume create DIR".into(),
                "makes a filesystem that can share blocks, in a file; then 'calve init --volume DIR'",
            ),
            Place::Bare => match &self.repository {
                Some(root) => {
                    let at_root = std::fs::canonicalize(".").is_ok_and(|here| here == *root);
                    let root =
                        if at_root { String::new() } else { format!(" -C {}", shell_word(root)) };
                    (
                        format!("calve{root} start NAME"),
                        "makes a worktree of this project as it stands",
                    )
                }
                None => (
                    "calve init DIR".into(),
                    "makes a store for the project in DIR; then 'calve start NAME' in it",
                ),
            },
        }
    }

    /// The lines of `calve doctor` about git and the store.
    pub(crate) fn lines(&self) -> Vec<String> {
        let open_files = crate::system::open_files()
            .map(|limit| format!("limits: {} open files in each process", count(limit)));
        let git = match &self.repository {
            Some(root) => format!("git: the working tree {}", shown(root)),
            None => "git: no repository here; worktrees will be plain copies".to_owned(),
        };
        let store = match &self.place {
            Place::Bare => "store: none yet".to_owned(),
            Place::Unusable(why) => format!("store: {why}"),
            Place::Project { trees, store } => format!(
                "store: {}, of the project {}, with {}",
                shown(store),
                shown(&trees.project),
                counted(trees.worktrees.len() as u64, "worktree")
            ),
            Place::Worktree { name, root, .. } => {
                format!("store: this is the worktree {} at {}", harmless(name), shown(root))
            }
        };
        [git, store].into_iter().chain(open_files).collect()
    }
}
