//! Settings and variables of git that are about others, about traces, or of an older git, hinder no
//! verb.

use super::Desk;

#[test]
fn what_git_forbids_to_others_hinders_no_drop_and_no_way_back() {
    // An old commit that `git fsck` does not like.
    const ODD: &str = "c=$(printf 'tree %s\nauthor n <n@e> 1 +0000\ncommitter n <n@e> 99999999999999999999 +0000\n\nodd\n' \
        $(git -C $W write-tree) | git -C $W hash-object -t commit --literally -w --stdin); git -C $W reset -q --hard $c";
    for (set, variable) in [
        ("transfer.hideRefs refs", None),
        ("uploadpack.hideRefs refs/heads", None),
        ("protocol.file.allow never", None),
        ("protocol.allow never", None),
        ("protocol.version 0", None),
        ("fetch.fsckObjects true", None),
        ("transfer.fsckObjects true", None),
        ("core.preferSymlinkRefs true", None),
        ("user.x y", Some(("GIT_ALLOW_PROTOCOL", "https:ssh"))),
        ("user.x y", Some(("GIT_TRACE", "1"))),
        ("user.x y", Some(("GIT_TRACE2", "1"))),
        ("user.x y", Some(("GIT_TRACE2_EVENT", "1"))),
        ("user.x y", Some(("GIT_TRACE_SETUP", "1"))),
        ("user.x y", Some(("GIT_TRACE_PERFORMANCE", "1"))),
    ] {
        let mut desk = Desk::new();
        desk.sh(&format!("git config {set}; touch ignored; git checkout -q -b other"));
        desk.variables.extend(variable.map(|(name, value)| (name.to_owned(), value.to_owned())));
        // A linked worktree comes back, on its branch, which a drop deletes if it may.
        desk.calve("start -q w");
        desk.sh("git -C $W checkout -q -b mine; echo work >$W/work");
        desk.calve("drop --force w");
        desk.calve("undo w");
        let branch = desk.sh("rm $W/work; git -C $W symbolic-ref --short HEAD");
        assert_eq!(branch, "mine", "{set} {variable:?}");
        desk.calve("drop w");
        desk.calve("start -q v");
        let run = desk.calve("drop --delete-branch v");
        assert!(run.stderr.contains("deleted the branch v"), "{set} {variable:?}: {run:?}");
        // The commits of a copy come into the project's repository, and its into the copy.
        desk.calve("start -q --git copy w");
        desk.sh("git commit -q --allow-empty -m newer");
        desk.calve("update --merge w");
        desk.sh("test $(git rev-parse HEAD) = $(git -C $W rev-parse HEAD)");
        desk.sh(ODD);
        desk.calve("drop --force w");
        desk.sh("git cat-file -e refs/calve/dropped/w");
    }
}
