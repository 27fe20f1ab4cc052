//! `calve tidy`: each step says what it did, of what, and what stays.

use std::fs;

use crate::hints::{in_git, repository, sh};
use crate::not_run;

#[test]
fn what_is_merged_or_comes_from_a_build_goes_and_work_stays() {
    let test = "what_is_merged_or_comes_from_a_build_goes_and_work_stays";
    let Some((_scratch, root)) = repository() else {
        return not_run(test, "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees"));
    let tag = "Signature: 8a477f597d28d172789f06886806bc55";
    sh(&app, "echo target/ >>.gitignore; git add .gitignore; git commit -qm ignore");
    assert_eq!(in_git(&app, "start -q merged open work").code, Some(0));
    for name in ["merged", "open", "work"] {
        let build = format!(
            "mkdir -p target/debug/.fingerprint target/debug/deps; echo built >target/debug/deps/o; \
             echo '{tag}' >target/CACHEDIR.TAG; echo '{{}}' >target/.rustc_info.json"
        );
        sh(
            &w.join(name),
            &format!("{build}; echo {name} >{name}; git add {name}; git commit -qm {name}"),
        );
    }
    sh(&app, "git merge -q merged");
    sh(&w.join("work"), "echo more >>work; echo x >target/debug/deps/app.db");
    // Nobody is idle for long enough.
    let young = in_git(&app, "tidy --json").json();
    let steps = young["steps"].as_array().unwrap();
    let told: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(told, ["reshare", "collect", "drop", "shed"]);
    assert!(steps.iter().all(|step| step["names"].as_array().unwrap().is_empty()), "{young}");
    let dry = in_git(&app, "tidy --dry-run --max-age 0s --idle 0s");
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stderr.contains(": merged\n") && dry.stderr.contains(": open/target\n"), "{dry:?}");
    assert!(w.join("merged").is_dir() && w.join("open/target").is_dir());
    // In the worktree itself: it stays as it is.
    let inside = in_git(&w.join("open"), "tidy --max-age 1d --idle 0s --json").json();
    assert_eq!(inside["steps"][3]["names"], serde_json::json!(["merged/target"]), "{inside}");
    let run = in_git(&app, "tidy --max-age 0s --idle 0s");
    assert_eq!(run.code, Some(0), "{run:?}");
    for gone in ["merged", "open/target"] {
        assert!(fs::symlink_metadata(w.join(gone)).is_err(), "{gone}: {run:?}");
    }
    assert_eq!(fs::read_to_string(w.join("open/open")).unwrap(), "open\n");
    assert_eq!(fs::read_to_string(w.join("work/work")).unwrap(), "work\nmore\n");
    let deps = w.join("work/target/debug/deps");
    assert!(deps.join("app.db").is_file() && deps.join("o").is_file());
    let why = "left work/target: it has a database: debug/deps/app.db\n";
    assert!(dry.stderr.contains(why) && run.stderr.contains(why), "{dry:?} {run:?}");
    assert!(sh(&app, "git branch --list merged").unwrap().contains("merged"));
    // A bound that cannot hold is a finding, and takes no work either.
    sh(&app, "git config calve.tidy.maxSize 1k");
    let bound = in_git(&app, "tidy --max-age 0s --idle 0s");
    assert_eq!(bound.code, Some(3), "{bound:?}");
    assert!(bound.stderr.contains("more than 1.0 kB"), "{bound:?}");
    assert_eq!(fs::read_to_string(w.join("work/work")).unwrap(), "work\nmore\n");
    // What a drop keeps until a day that it named, stays until then.
    let dropped = in_git(&app, "drop --force work");
    assert!(dropped.stderr.contains("are kept until"), "{dropped:?}");
    assert_eq!(in_git(&app, "tidy --max-age 0s --idle 0s").code, Some(3));
    assert_eq!(in_git(&app, "undo work").code, Some(0));
    assert_eq!(fs::read_to_string(w.join("work/work")).unwrap(), "work\nmore\n");
    let enough = in_git(&app, "tidy --max-size 1T");
    assert_eq!(enough.code, Some(0), "{enough:?}");
    assert!(!enough.stderr.contains("shed"), "{enough:?}");
    sh(&app, "git config calve.tidy.maxSize 10");
    let wrong = in_git(&app, "tidy");
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("calve.tidy.maxSize is '10': it has no unit"), "{wrong:?}");
    let timer = in_git(&app, "tidy --timer");
    assert!(timer.stdout.contains(" tidy -"), "{timer:?}");
}
