//! What is only staged is in no commit and perhaps in no file: only an index names it.

use super::Desk;

#[test]
fn what_is_only_staged_outlives_a_forced_drop_whatever_git_deletes() {
    // A merge with a conflict is in the way of a commit of all that is staged.
    const CONFLICT: &str = "git switch -qc o; echo 1 >file; git commit -qam 1; git switch -q w
        echo 2 >file; git commit -qam 2; git merge -q o >/dev/null 2>&1 || true;";
    for before in ["", CONFLICT] {
        for is_there in [true, false] {
            let desk = Desk::new();
            desk.calve("start -q w");
            desk.sh(&format!("cd $W; {before} echo only >gone; git add gone; rm gone"));
            if !is_there {
                desk.sh("rm -r $W");
            }
            desk.calve("drop --force w");
            desk.sh("git gc -q --prune=now");
            assert_eq!(desk.sh("git show refs/calve/dropped/w:gone"), "only", "{before}");
            if is_there {
                desk.calve("undo w");
                assert_eq!(desk.sh("git -C $W show :gone"), "only", "{before}");
            }
        }
    }
}

/// No path of a tree can have the sides of a conflict that only the index has.
#[test]
fn the_sides_of_a_conflict_outlive_a_forced_drop_whatever_git_deletes() {
    let desk = Desk::new();
    desk.calve("start -q w");
    desk.sh("cd $W; git switch -qc o; echo theirs >file; git commit -qam 1; git switch -q w
         printf 'mine, 1\\n2\\n' >file; git switch -qm o || :; echo x >file");
    let stages = desk.sh("git -C $W ls-files -u");
    assert!(stages.lines().count() > 1, "{stages}");
    desk.calve("drop --force w");
    desk.sh("git gc -q --prune=now");
    desk.calve("undo w");
    assert_eq!(desk.sh("git -C $W ls-files -u"), stages);
    for line in stages.lines() {
        let id = line.split(' ').nth(1).unwrap();
        assert_eq!(desk.sh(&format!("git cat-file -t {id}")), "blob", "{line}");
    }
}
