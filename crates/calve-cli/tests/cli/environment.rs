//! `calve env`, and the variables that the commands of a start have: a port and names that no other
//! worktree of the project has.

use crate::hints::{in_git, repository, sh};
use crate::{command, not_run, run, with_project};

#[test]
fn each_worktree_has_its_number_and_all_that_comes_from_it() {
    let Some((_scratch, root)) = repository() else {
        return not_run(
            "each_worktree_has_its_number_and_all_that_comes_from_it",
            "there is no git",
        );
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees"));
    let started = in_git(&app, "start -q --json a b");
    assert_eq!(started.json()["worktrees"][1]["slot"], 2, "{started:?}");
    let of =
        |name: &str, field: &str| in_git(&app, &format!("env {name} --json")).json()[field].clone();
    for (name, field, expected) in [
        ("a", "CALVE_NAME", "a"),
        ("a", "CALVE_SLOT", "1"),
        ("a", "CALVE_PORT", "3010"),
        ("b", "CALVE_PORT", "3020"),
        ("a", "CALVE_PROJECT", app.to_str().unwrap()),
        ("a", "CALVE_WORKTREE", w.join("a").to_str().unwrap()),
        ("a", "CCACHE_BASEDIR", w.join("a").to_str().unwrap()),
        ("a", "COMPOSE_PROJECT_NAME", "app-a"),
        (".", "CALVE_NAME", ""),
        (".", "CALVE_SLOT", "0"),
        (".", "CALVE_PORT", "3000"),
        (".", "COMPOSE_PROJECT_NAME", "app"),
    ] {
        assert_eq!(of(name, field), expected, "{name} {field}");
    }
    let roots = ["app", "app.worktrees/a", "app.worktrees/b"].map(|it| root.join(it));
    let roots = roots.map(|it| it.to_str().unwrap().to_owned()).join(":");
    assert_eq!(of("a", "SCCACHE_BASEDIRS"), roots.as_str());
    // In the worktree itself, in each form; and sh reads it.
    let shell = in_git(&w.join("b"), "env").stdout;
    let read = sh(&w, &format!("{shell}\necho $CALVE_NAME $CALVE_PORT")).unwrap();
    assert_eq!(read, "b 3020\n");
    let dotenv = in_git(&w.join("b"), "env --format dotenv").stdout;
    assert!(dotenv.contains("\nCALVE_PORT=3020\n"), "{dotenv}");
    // The settings say which ports; a start's commands have the same.
    sh(&app, "git config calve.portBase 8000; git config calve.portStep 1");
    let started = in_git(&app, "start -q -x env c");
    let given = |name: &str| started.stderr.lines().any(|line| line == name);
    assert!(given("CALVE_SLOT=3") && given("CALVE_PORT=8003"), "{started:?}");
    assert!(given("COMPOSE_PROJECT_NAME=app-c") && given("CALVE_BRANCH=c"), "{started:?}");
    sh(&app, "git config calve.portStep none");
    let wrong = in_git(&app, "env c");
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("calve.portStep is 'none': not a number"), "{wrong:?}");
    let started = in_git(&app, "start -q -x env d");
    assert_eq!(started.code, Some(3), "{started:?}");
    assert!(started.stderr.contains("warning: no CALVE_PORT: git's setting"), "{started:?}");
    assert!(!started.stderr.contains("\nCALVE_PORT="), "{started:?}");
    // There are no ports after 65535.
    sh(&app, "git config calve.portBase 65530; git config calve.portStep 3");
    let none = in_git(&app, "env b");
    assert_eq!(none.code, Some(3), "{none:?}");
    assert!(none.stderr.contains("warning: no CALVE_PORT: for slot 2, the 3 ports"), "{none:?}");
    let read = sh(&w, &format!("CALVE_PORT=1; {}\necho $CALVE_SLOT $CALVE_PORT.", none.stdout));
    assert_eq!(read.unwrap(), "2 .\n");
    assert_eq!(of("a", "CALVE_PORT"), "65533");
    let started = in_git(&app, "start -q -x env e");
    assert!(started.stderr.contains("no CALVE_PORT: for slot 5"), "{started:?}");
    assert!(!started.stderr.contains("\nCALVE_PORT="), "{started:?}");
    assert_eq!(in_git(&app, "drop e").code, Some(0));
    // A slot is free again after the drop, and goes to the next one.
    assert_eq!(in_git(&app, "drop a c").code, Some(0));
    let started = in_git(&app, "start -q --json e f g").json();
    let slots: Vec<_> = (0..3).map(|at| started["worktrees"][at]["slot"].clone()).collect();
    assert_eq!(slots, [1, 3, 5]);
}

/// git fails then if it is asked for the user's settings alone, and the start did.
#[test]
fn a_system_service_without_a_home_can_start_worktrees() {
    let (_scratch, project) = with_project();
    let mut service = command(&project, ["start", "a"]);
    service.env_remove("HOME").env_remove("XDG_CONFIG_HOME");
    let started = run(service);
    assert_eq!(started.code, Some(0), "{started:?}");
}
