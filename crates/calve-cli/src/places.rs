//! Whether a folder is what the user means: a project, or a folder that somebody took for one.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{Discovered, ErrorKind, Filesystem, NotInGit, Store};

use crate::failure::Failure;
use crate::failure::stored::own;
use crate::settings::{self, git_in};
use crate::text::{shell_word, shown};

/// The file or the folder that leads git to the repository of a working tree.
fn git_of(root: &Path) -> PathBuf {
    root.join(".git")
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Refuses a project that is the home folder or contains it, and one in a worktree. A start in any
/// folder below would copy all of it.
pub(crate) fn must_be_meant(project: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("make store for", vec![project.to_owned()], &error);
    let project = &fs::canonicalize(project).map_err(failed)?;
    if is_around_bare(project) {
        return Err(around_bare(project));
    }
    let refused = |kind, why: &str, hint| Err(own("make store for", project, kind, why, hint));
    match Store::discover(project) {
        // There is nothing left to do.
        Ok(found) if found.root == *project => return Ok(()),
        Ok(found) if found.is_worktree() => {
            let hint = format!(
                "'calve status' and the other commands work in it; 'calve init --force {}' makes a store for this \
                 folder alone",
                shell_word(project)
            );
            let why = format!("it is inside the worktree {}", shown(&found.root));
            return refused(ErrorKind::Overlap, &why, hint);
        }
        // The library says what is wrong with it.
        _ => {}
    }
    let home = std::env::var_os("HOME").and_then(|home| fs::canonicalize(home).ok());
    let why = match home {
        _ if project.parent().is_none() => "it is the root of all folders",
        Some(home) if home == *project => "it is your home folder",
        Some(home) if home.starts_with(project) => "it contains your home folder",
        _ => return Ok(()),
    };
    let hint = format!(
        "each start would copy all of it, keys and all: name the root of a project, as in 'calve init DIR'; \
         'calve init --force {}' does it nevertheless",
        shell_word(project)
    );
    refused(ErrorKind::InvalidName, why, hint)
}

/// The warning about a project that is a folder in a git repository and not its root, or a submodule.
pub(crate) fn inside_repository(project: &Path) -> Option<String> {
    let repository = project.ancestors().skip(1).find(|above| is_there(&git_of(above)))?;
    if is_there(&git_of(project)) {
        let (own, above) = (repository_of(project)?, repository_of(repository)?);
        // A linked worktree has the same one.
        let is_submodule = own != above && own.starts_with(above);
        let mut worktrees = project.strip_prefix(repository).ok()?.as_os_str().to_owned();
        worktrees.push(".worktrees/");
        return is_submodule.then(|| {
            format!(
                "{} is a submodule of {}, where 'git add -A' would add its worktrees: put the line /{} into the .gitignore \
                 there, or set another folder with 'git config calve.worktrees DIR'",
                shown(project),
                shown(repository),
                shown(Path::new(&worktrees))
            )
        });
    }
    let (word, repository) = (shown(project), shell_word(repository));
    Some(format!(
        "{word} is a folder in the git repository {repository}: its worktrees have no git, and 'git add -A' would add \
         those in {word}.worktrees; 'calve init {repository}' makes a store for the whole repository"
    ))
}

/// The remark about a new store that is not in the repository of its project.
pub(crate) fn not_in_git(store: &Store) -> Option<String> {
    // Without an answer, nothing is amiss that a user could change.
    let why = match store.why_not_in_git().ok()?? {
        NotInGit::OtherFilesystem => "the git repository is on another filesystem",
        NotInGit::MayNotWrite => "the git repository may not be written to",
        _ => return None,
    };
    Some(format!(
        "the store is {}, because {why}; 'git clean -ffdx' deletes it with all snapshots",
        shown(store.path())
    ))
}

/// The warning about a new store that another machine or container could open as well, on a
/// filesystem where calve cannot keep the two apart.
pub(crate) fn on_one_machine(store: &Store) -> Option<String> {
    let filesystem = Filesystem::of(store.path());
    let path = shell_word(store.path());
    (!filesystem.shared_memory).then(|| {
        format!(
            "the store is on {}: use it from one machine at a time. To have it on a local disk instead: rm -rf {path}, \
             then 'calve init --store DIR'",
            filesystem.name
        )
    })
}

/// Refuses a start if git has removed the project, which was a linked worktree: no other working tree
/// is taken in its place unasked. `here` is a working tree that git made.
pub(crate) fn must_have_project(store: &Store, here: Option<&Path>) -> Result<(), Failure> {
    if !store.is_project_removed()? {
        return Ok(());
    }
    let project = store.project()?;
    let common = store.path().parent().unwrap_or(store.path());
    let main = common.parent().filter(|_| common.ends_with(".git")).map(Path::to_owned);
    let of_git = store.worktrees_of_git()?.into_iter().map(|other| other.path);
    let mut others = here.map(Path::to_owned).into_iter().chain(main).chain(of_git);
    let hint = match others.find(|other| other.is_dir()) {
        Some(other) => format!("'calve init {}' makes that the project", shell_word(&other)),
        None => format!(
            "'git -C {} worktree add {}' recreates it",
            shell_word(common),
            shell_word(&project)
        ),
    };
    let why = "this git worktree was the project, and git has removed it";
    Err(own("start worktree of", &project, ErrorKind::SourceNotFound, why, hint))
}

/// The root of the git working tree that contains `current`.
pub(crate) fn repository_around(current: &Path) -> Option<PathBuf> {
    let current = fs::canonicalize(current).ok()?;
    current.ancestors().find(|above| is_there(&git_of(above))).map(Path::to_owned)
}

/// The root of the git repository that contains `current`, if a start may make a store there: it is
/// the main working tree, or the repository has none because it is bare. A submodule gets a store
/// only if that is meant.
pub(crate) fn without_store(current: &Path) -> Option<PathBuf> {
    let root = repository_around(current)?;
    let own = git_of(&root);
    if own.is_file() {
        let mut git = git_in(&root);
        git.args(["rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir"]);
        let said = said(git.args(["--is-bare-repository", "--show-superproject-working-tree"]))?;
        let mut lines = said.lines();
        let (git_dir, common) = (lines.next()?, lines.next()?);
        let is_main = git_dir == common && lines.eq(["false"]);
        return (is_main || git_dir != common && is_bare(Path::new(common))).then_some(root);
    }
    own.join("HEAD").is_file().then_some(root)
}

/// What a command of git prints, if it succeeds.
fn said(git: &mut Command) -> Option<String> {
    String::from_utf8(settings::said(git).ok()?).ok()
}

fn is_bare(repository: &Path) -> bool {
    let mut git = git_in(repository);
    let asked = git.arg("--git-dir=.").args(["rev-parse", "--is-bare-repository"]);
    said(asked).is_some_and(|said| said.trim() == "true")
}

/// Whether the file `.git` of a folder leads to a bare repository, of which linked worktrees are
/// used: the folder is no working tree.
fn is_around_bare(root: &Path) -> bool {
    let led = leads_to(root).filter(|led| repository_of(root).as_ref() == Some(led));
    led.is_some_and(|repository| is_bare(&repository))
}

/// The error about a folder around a bare repository. It names a working tree to start from.
fn around_bare(root: &Path) -> Failure {
    let word = shell_word(root);
    let listed = said(git_in(root).args(["worktree", "list", "--porcelain"])).unwrap_or_default();
    let trees = listed.lines().filter_map(|line| line.strip_prefix("worktree ").map(Path::new));
    let hint = match trees.into_iter().find(|tree| is_there(&git_of(tree)) && *tree != root) {
        Some(tree) => format!("'calve -C {} start NAME' starts from a worktree", shell_word(tree)),
        None => format!("'git -C {word} worktree add BRANCH' makes a worktree to start from"),
    };
    let why = "its repository is bare, so the folder itself is no working tree";
    own("make store for", root, ErrorKind::Git, why, hint)
}

/// The error of a start that makes no store here: a linked worktree and a submodule, whose
/// repositories are elsewhere, get one only if that is meant.
pub(crate) fn no_store_here(failure: Failure, current: &Path) -> Failure {
    let Some(root) = repository_around(current) else { return failure };
    if is_around_bare(&root) {
        return around_bare(&root);
    }
    let hint = format!(
        "{} is a linked worktree or a submodule of git: 'calve init {}' makes a store for it, and a start in the main \
         working tree makes that one's",
        shown(&root),
        shell_word(&root)
    );
    failure.hinted(hint)
}

/// The root of the git repository that contains `current`, if it is below `root` and another one
/// than that of `root`. Linked worktrees belong to the repository of `root`; submodules do not.
fn other_repository(current: &Path, root: &Path) -> Option<PathBuf> {
    let ours = repository_of(root);
    current
        .ancestors()
        .take_while(|above| *above != root)
        .find(|above| {
            let own = git_of(above);
            let is_ours = || ours.is_some() && repository_of(above) == ours;
            is_there(&own) && !(own.is_file() && is_ours())
        })
        .map(Path::to_owned)
}

/// The folder of the repository of a working tree. Linked worktrees share one.
fn repository_of(root: &Path) -> Option<PathBuf> {
    let own = git_of(root);
    if !own.is_file() {
        return fs::canonicalize(own).ok();
    }
    let leads = leads_to(root)?;
    let registrations = leads.parent().filter(|above| above.ends_with("worktrees"));
    Some(registrations.and_then(Path::parent).map_or(leads.clone(), Path::to_owned))
}

/// Where the file `.git` of a working tree leads.
fn leads_to(root: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(git_of(root)).ok()?;
    fs::canonicalize(root.join(text.strip_prefix("gitdir: ")?.trim_end())).ok()
}

/// Refuses to start worktrees of the project, or from the worktree, that `place` is if the user is
/// in another git repository below. Without a store of its own, that repository is a part of it.
pub(crate) fn must_not_be_in_another_repository(
    current: &Path,
    place: &Discovered,
) -> Result<(), Failure> {
    let root = &*place.root;
    let Ok(current) = fs::canonicalize(current) else { return Ok(()) };
    let Some(repository) = other_repository(&current, root) else { return Ok(()) };
    let why = format!("it has no store; the one above is that of {}", shown(root));
    let (here, store) = (shell_word(&repository), shell_word(place.store.path()));
    let force = if place.is_worktree() { " --force" } else { "" };
    let hint = format!(
        "'calve init{force} {here}' makes a store for this repository; 'calve --store {store} start NAME' starts a worktree of all of {}",
        shell_word(root)
    );
    Err(own("start a worktree of", &repository, ErrorKind::StoreNotFound, &why, hint))
}

/// The remark about worktrees that are inside the project.
pub(crate) fn inside_project(worktree: &Path, project: &Path) -> Option<String> {
    let inside = worktree.parent().filter(|folder| folder.starts_with(project))?;
    Some(format!(
        "the worktree is inside the project, in {}: the folder above the project may not be written to, or is on another \
         filesystem; --at DIR puts worktrees elsewhere",
        shown(inside)
    ))
}

/// Refuses a folder of the project for worktrees that has other files and that git does not ignore.
/// A line that lets git ignore worktrees there holds in each worktree, too: in it, git would ignore
/// new files of that folder, or whatever has the name of a worktree, and a drop would delete them.
pub(crate) fn must_be_for_worktrees(
    place: &Path,
    words: &[String],
    project: &Path,
) -> Result<(), Failure> {
    // One that is not there will have nothing else.
    let Ok(folder) = fs::canonicalize(place) else { return Ok(()) };
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
    let has_others = entries.flatten().any(|entry| !is_there(&git_of(&entry.path())));
    if !has_others || !folder.starts_with(project) {
        return Ok(());
    }
    let worktree = folder.join(words.first().map_or("worktree", String::as_str));
    if !is_in_git_unignored(&worktree, project) {
        return Ok(());
    }
    let (better, key) = (shell_word(&folder.join(".worktrees")), crate::settings::WORKTREES);
    let why = "it is a folder of the project with other files, and git does not ignore worktrees there: 'git add -A' would add them";
    let hint = format!(
        "a folder of their own is ignored: '--at {better}', or 'git config {key} {better}'; without either, worktrees are beside the project"
    );
    Err(own("start worktrees in", place, ErrorKind::Overlap, why, hint))
}

/// Whether a path in the project is in a git repository that does not ignore it.
fn is_in_git_unignored(path: &Path, project: &Path) -> bool {
    let mut git = git_in(project);
    let asked = calve::output_of(git.args(["check-ignore", "-q"]).arg(path));
    // 1: not ignored. Otherwise git ignores it, or there is no git.
    asked.is_ok_and(|asked| asked.status.code() == Some(1))
}

/// Lets git ignore the folder of a worktree inside the project: 'git add -A' there would commit the
/// worktrees. Returns what was done, or the warning that says what to do.
pub(crate) fn ignored_inside(worktree: &Path, project: &Path) -> Option<Result<String, String>> {
    let inside = worktree.strip_prefix(project).ok()?;
    if !is_in_git_unignored(worktree, project) {
        return None;
    }
    let line = format!("/{}/", pattern(inside.parent()?.to_str()?));
    let file = said(git_in(project).args(["rev-parse", "--git-path", "info/exclude"]))?;
    let file = project.join(file.trim_end_matches('\n'));
    let put = || {
        let text = fs::read(&file).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(error),
        })?;
        fs::create_dir_all(file.parent().unwrap_or(project))?;
        let start = if matches!(text.last(), None | Some(b'\n')) { "" } else { "\n" };
        let mut open = fs::OpenOptions::new().create(true).append(true).open(&file)?;
        open.write_all(format!("{start}{line}\n").as_bytes())
    };
    let file = shown(&file);
    Some(match put() {
        Ok(()) if is_in_git_unignored(worktree, project) => Err(format!(
            "the worktree is inside the project, and 'git add -A' there would add it: the project's .gitignore \
             outranks the line {line} in {file}; put the line at its end"
        )),
        Ok(()) => Ok(format!(
            "the worktree is inside the project: the line {line} in {file} lets git ignore it"
        )),
        Err(error) => Err(format!(
            "the worktree is inside the project, and 'git add -A' there would add it: put the line {line} into its \
             .gitignore (it could not be put into {file}: {error})"
        )),
    })
}

/// The pattern of an ignore file that means this path alone.
fn pattern(path: &str) -> String {
    let special = |char: char| matches!(char, '*' | '?' | '[' | '\\' | ' ');
    path.chars().flat_map(|char| special(char).then_some('\\').into_iter().chain([char])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_below_a_project_is_another_one_unless_it_belongs_to_that_of_the_project() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        for folder in [
            "app/.git/modules/sub",
            "app/.git/worktrees/w",
            "app/sub/deep",
            "app/trees/w",
            "app/other/.git",
            "app/other/deep",
            "app/plain/deep",
            "app/link",
            "linked",
            "linked/sub",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let lead = |file: &str, to: &Path| {
            fs::write(root.join(file), format!("gitdir: {}\n", to.display())).unwrap();
        };
        lead("app/sub/.git", Path::new("../.git/modules/sub"));
        lead("app/trees/w/.git", &root.join("app/.git/worktrees/w"));
        lead("app/link/.git", &root.join("gone"));
        lead("linked/.git", &root.join("app/.git/worktrees/w"));
        lead("linked/sub/.git", &root.join("app/.git/modules/sub"));
        for (current, project, expected) in [
            ("app", "app", None),
            ("app/plain/deep", "app", None),
            ("app/sub/deep", "app", Some("app/sub")),
            ("app/trees/w", "app", None),
            ("app/other/deep", "app", Some("app/other")),
            ("app/link", "app", Some("app/link")),
            ("app/plain", "", Some("app")),
            ("linked/sub", "linked", Some("linked/sub")),
        ] {
            let found = other_repository(&root.join(current), &root.join(project));
            assert_eq!(found, expected.map(|path| root.join(path)), "{current} {project}");
        }
    }
}
