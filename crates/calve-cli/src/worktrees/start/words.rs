//! What the words of a start mean: names of worktrees, branches, pull requests.

use std::path::Path;
use std::process::Stdio;

use calve::{ErrorKind, FoundBranch, FoundBranches, StartBranch};

use crate::args::StartArgs;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::settings::{git_in, said};
use crate::similar;
use crate::text::{harmless, shell_word};

/// The worktrees that the words ask for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The names of the worktrees and of their folders.
    pub(super) names: Vec<String>,
    /// The branch of each: the word itself.
    pub(super) branches: Vec<String>,
    /// The commit at which they start, if it is not the project's.
    pub(super) base: Option<String>,
    /// The upstream of the branch, if the branch is only at a remote.
    pub(super) upstream: Option<String>,
    /// What git said of the words, if they may be branches.
    pub(super) found: Option<FoundBranches>,
    /// The branches that follow a request, and moved.
    moved: Vec<MovedBranch>,
}

/// A branch that moved to the newer commit of its request.
#[derive(Debug)]
struct MovedBranch {
    reference: String,
    was: String,
    now: String,
}

impl Asked {
    /// # Errors
    /// A word means a branch that cannot be worked on like this; the remote could not be asked. No
    /// branch has moved.
    pub(super) fn of(
        args: &StartArgs,
        words: &[String],
        found: Option<FoundBranches>,
        (project, is_elsewhere): (&Path, bool),
    ) -> Result<Self, Failure> {
        let names = words.iter().map(|word| folder_of(word)).collect();
        let mut asked =
            Self { names, branches: words.to_vec(), base: args.base.clone(), ..Self::default() };
        let Some(found) = found else {
            let request = words.iter().find(|word| pull_request(word).is_some());
            return match (request, args.start_branch()) {
                (Some(word), StartBranch::Named(_)) => Err(not_here(word)),
                _ => Ok(asked),
            };
        };
        let is_elsewhere_asked = |(word, found): &(&String, &FoundBranch)| {
            pull_request(word).is_some()
                || !matches!(found, FoundBranch::Nowhere | FoundBranch::AtHead)
        };
        if !args.git.may_link()
            && let Some((word, _)) = words.iter().zip(found.iter()).find(is_elsewhere_asked)
        {
            return Err(not_here(word));
        }
        match asked.look_up(words, &found, (project, is_elsewhere)) {
            Ok(()) => {}
            Err(failure) => return Err(asked.taken_back(project, failure)),
        }
        if asked.base.is_none() {
            asked.base.clone_from(&args.default_base);
        }
        asked.found = Some(found);
        Ok(asked)
    }

    fn look_up(
        &mut self,
        words: &[String],
        found: &FoundBranches,
        (project, is_elsewhere): (&Path, bool),
    ) -> Result<(), Failure> {
        for (word, found) in words.iter().zip(found.iter()) {
            let mut found = found.clone();
            if let (Some(reference), FoundBranch::AtHead | FoundBranch::Here) =
                (pull_request(word), &found)
                && let Some(moved) = bring_up_to_date(word, &reference, project)?
            {
                self.moved.push(moved);
                found = FoundBranch::Here;
            }
            let Some((base, upstream)) = commit_of(word, found, (project, is_elsewhere))? else {
                continue;
            };
            if words.len() > 1 {
                return Err(own(
                    "start",
                    Path::new(word),
                    ErrorKind::BranchExists,
                    "this branch is at another commit than the project, and all worktrees of one start are at the same",
                    format!("'calve start {}' works on it", shell_word(Path::new(word))),
                ));
            }
            (self.base, self.upstream) = (Some(base), upstream);
        }
        Ok(())
    }

    /// Moves the branches back, because the start failed, and returns its failure.
    pub(super) fn taken_back(&self, project: &Path, mut failure: Failure) -> Failure {
        for MovedBranch { reference, was, now } in &self.moved {
            let back = ["update-ref", "-m", "calve start failed", reference, was, now];
            if git_without_hooks(project, &back).is_err() {
                let left = format!("{reference} stays at the request's newer commit {now}");
                failure.cause = format!("{}; {left}", failure.cause).into();
            }
        }
        failure
    }

    /// The branch of the worktree with this name, if it has another name.
    pub(super) fn other_branch(&self, name: &str) -> Option<&str> {
        let at = self.names.iter().position(|it| it == name)?;
        self.branches.get(at).map(String::as_str).filter(|branch| *branch != name)
    }

    /// The commit in words: a branch without the folder in which git keeps it.
    pub(super) fn base_in_words(&self) -> Option<&str> {
        let base = self.base.as_deref()?;
        let known = ["refs/heads/", "refs/remotes/"];
        Some(known.iter().find_map(|folder| base.strip_prefix(folder)).unwrap_or(base))
    }
}

/// The folder of a worktree on the branch `word`. A path is none, and stays as it is: the library
/// says what is wrong with it.
fn folder_of(word: &str) -> String {
    let is_branch = !word.starts_with(['.', '/', '-', '~'])
        && word.split('/').all(|part| !["", ".", ".."].contains(&part));
    if is_branch { word.replace('/', "-") } else { word.to_owned() }
}

/// The commit at which a worktree of this word starts, and the upstream of its branch. `None`: at
/// the project's, with its uncommitted work.
fn commit_of(
    word: &str,
    found: FoundBranch,
    (project, is_elsewhere): (&Path, bool),
) -> Result<Option<(String, Option<String>)>, Failure> {
    match found {
        // The worktrees begin at another commit than the project's.
        FoundBranch::AtHead if is_elsewhere => Ok(Some((format!("refs/heads/{word}"), None))),
        FoundBranch::Here => Ok(Some((format!("refs/heads/{word}"), None))),
        FoundBranch::Remotes(remotes) => match remotes.as_slice() {
            [remote] => {
                let upstream = remote.strip_prefix("refs/remotes/").map(str::to_owned);
                Ok(Some((remote.clone(), upstream)))
            }
            several => Err(of_several_remotes(word, several)),
        },
        // A new branch of the same name would take its place in each command of git.
        FoundBranch::OfRemote { remote, branch } => {
            let quoted = shell_word(Path::new(&branch));
            Err(own(
                "start",
                Path::new(word),
                ErrorKind::BranchExists,
                &format!("this is a branch of the remote {}", harmless(&remote)),
                format!(
                    "'calve start {quoted}' works on it, on a branch of yours that has it as upstream"
                ),
            ))
        }
        FoundBranch::Commit => Err(own(
            "start",
            Path::new(word),
            ErrorKind::BranchExists,
            "this is a tag or a commit, and a new branch of the same name would take its place in git's commands",
            format!(
                "'calve start --base {} NAME' starts at it, on a new branch",
                shell_word(Path::new(word))
            ),
        )),
        FoundBranch::Nowhere => {
            let Some(reference) = pull_request(word) else { return Ok(None) };
            match fetched(word, &reference, project)? {
                None => {
                    Err(not_at(word, &reference, "the repository has no remote to fetch it from"))
                }
                found => Ok(found),
            }
        }
        _ => Ok(None),
    }
}

fn of_several_remotes(word: &str, remotes: &[String]) -> Failure {
    let short = |it: &String| it.strip_prefix("refs/remotes/").unwrap_or(it).to_owned();
    let remotes: Vec<String> = remotes.iter().map(short).collect();
    let quoted = |word: &str| shell_word(Path::new(word));
    own(
        "start",
        Path::new(word),
        ErrorKind::BranchExists,
        &format!("several remotes have this branch: {}", remotes.join(", ")),
        format!(
            "'calve start --base {} {}' starts from that one; git's setting checkout.defaultRemote names one for always",
            quoted(&remotes[0]),
            quoted(word)
        ),
    )
}

/// A worktree with a copy of the repository is at the project's commit, and one with `-b` on that
/// branch.
fn not_here(word: &str) -> Failure {
    own(
        "start",
        Path::new(word),
        ErrorKind::InvalidName,
        "it is a branch or a request, which is for a linked worktree without -b",
        format!("'calve start --git linked {}' works on it", shell_word(Path::new(word))),
    )
}

/// The reference of a pull request (`pr/12`) or a merge request (`mr/12`) at a remote.
fn pull_request(word: &str) -> Option<String> {
    let (kind, number) = word.split_once('/')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match kind {
        "pr" if is_number => Some(format!("refs/pull/{number}/head")),
        "mr" if is_number => Some(format!("refs/merge-requests/{number}/head")),
        _ => None,
    }
}

/// Lets git fetch the reference, and returns its commit. `None` if there is no remote.
fn fetched(
    word: &str,
    reference: &str,
    project: &Path,
) -> Result<Option<(String, Option<String>)>, Failure> {
    let Some((remote, id)) = at_remote(word, reference, project)? else { return Ok(None) };
    let words = ["fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", &remote, reference];
    git(project, &words)?;
    Ok(Some((id, None)))
}

/// The remote that has the reference, and its commit there. `None` if there is no remote.
fn at_remote(
    word: &str,
    reference: &str,
    project: &Path,
) -> Result<Option<(String, String)>, Failure> {
    let remotes = git(project, &["remote"])?;
    let default =
        git(project, &["config", "--default", "origin", "--get", "checkout.defaultRemote"])?;
    let remotes: Vec<&str> = remotes.lines().collect();
    let Some(remote) = remotes.iter().find(|it| **it == default.trim()).or(remotes.first()) else {
        return Ok(None);
    };
    let listed = git(project, &["ls-remote", "--", remote, reference])?;
    match listed.split_whitespace().next() {
        Some(id) => Ok(Some(((*remote).to_owned(), id.to_owned()))),
        None => Err(not_at(word, reference, &format!("the remote {remote} has no such reference"))),
    }
}

/// The error for a request that no remote has.
fn not_at(word: &str, reference: &str, why: &str) -> Failure {
    let (word, name) = (shell_word(Path::new(word)), folder_of(word));
    let hint = format!("'calve start -b {word} {name}' makes a new branch of this name");
    own("start", Path::new(reference), ErrorKind::CommitNotFound, why, hint)
}

/// Fetches a request of which there is a branch already. If the branch has nothing of its own, git
/// moves it to the request's commit, unless a working tree uses it.
fn bring_up_to_date(
    word: &str,
    request: &str,
    project: &Path,
) -> Result<Option<MovedBranch>, Failure> {
    let branch = format!("refs/heads/{word}");
    let known = ["for-each-ref", "--format=%(objectname) %(worktreepath)", "--", &branch];
    let known = git(project, &known)?;
    let (was, tree) = known.trim_end_matches('\n').split_once(' ').unwrap_or_default();
    // A start refuses a branch that a working tree has checked out.
    if !tree.is_empty() {
        return Ok(None);
    }
    let Some((remote, now)) = at_remote(word, request, project)? else { return Ok(None) };
    if now == was || git(project, &["merge-base", "--is-ancestor", &now, was]).is_ok() {
        return Ok(None);
    }
    // git moves it forward alone, and refuses also a branch to which a rebase or a bisection comes
    // back. With -q it does not say why it refuses.
    let both = format!("{request}:{branch}");
    let moves = ["fetch", "--no-tags", "--no-write-fetch-head", "--", &remote, &both];
    match git_without_hooks(project, &moves) {
        Err(failure) if failure.cause.contains("refusing to fetch into") => return Ok(None),
        Err(failure) if !failure.cause.contains("non-fast-forward") => return Err(failure),
        Err(_) => {}
        Ok(_) => {
            let now = git(project, &["rev-parse", "--verify", &branch])?.trim().to_owned();
            let was = was.to_owned();
            return Ok(Some(MovedBranch { reference: branch, was, now }));
        }
    }
    let (word, name) = (shell_word(Path::new(word)), folder_of(word));
    Err(own(
        "start",
        Path::new(&branch),
        ErrorKind::BranchExists,
        "it has commits that the request does not have, and the request has newer ones",
        format!(
            "'calve start --base {now} -b {word}-new {name}' works on the request; 'calve start --base {branch} {name}' on the branch"
        ),
    ))
}

fn git_without_hooks(project: &Path, words: &[&str]) -> Result<String, Failure> {
    git(project, &[&["-c", "core.hooksPath=/dev/null"], words].concat())
}

/// Branches and tags that are like this word.
pub(super) fn branches_like(word: &str, project: &Path) -> Vec<String> {
    let format =
        ["for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes", "refs/tags"];
    let known = git(project, &format).unwrap_or_default();
    similar::owned(similar::to(word, known.lines()))
}

/// What git prints. It may ask for a password.
fn git(project: &Path, words: &[&str]) -> Result<String, Failure> {
    let mut command = git_in(project);
    command.args(words).env("LC_ALL", "C").stdin(Stdio::inherit());
    let said = said(&mut command).map_err(|error| {
        let why = harmless(&error.to_string()).into_owned();
        let hint = "try again when git can reach the remote ('git fetch')";
        own("ask git about", project, ErrorKind::Git, &why, hint)
    })?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_has_a_folder_and_a_path_stays_what_it_is() {
        for (word, folder) in [
            ("fix", "fix"),
            ("feat/x", "feat-x"),
            ("a/b/c", "a-b-c"),
            ("../x", "../x"),
            ("/x", "/x"),
            ("a//b", "a//b"),
            ("a/", "a/"),
        ] {
            assert_eq!(folder_of(word), folder);
        }
    }

    #[test]
    fn a_request_is_a_kind_and_a_number() {
        for (word, reference) in [
            ("pr/12", Some("refs/pull/12/head")),
            ("mr/3", Some("refs/merge-requests/3/head")),
            ("pr/x", None),
            ("pr/", None),
            ("pr", None),
            ("fix/12", None),
        ] {
            assert_eq!(pull_request(word).as_deref(), reference, "{word}");
        }
    }
}
