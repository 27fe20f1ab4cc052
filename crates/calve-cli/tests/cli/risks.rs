//! What is said before it bites: builds that came along and still are the project's, processes that
//! files name, and counts that are cut.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::{calve, done, plant, scratch, with_project};

#[test]
fn start_says_of_each_kind_what_it_means_and_what_to_do() {
    let pid = std::process::id();
    for (path, text, lines) in [
        (
            "build/CMakeCache.txt",
            "HOME=ROOT/x",
            &[
                "build/ is the project's CMake folder (CMakeCache.txt)",
                "'rm -r build && cmake -B build'",
            ][..],
        ),
        (
            "src/b/CMakeCache.txt",
            "HOME=ROOT",
            &["src/b/ is the project's", "'rm -r src/b && cmake -S src -B src/b'"],
        ),
        ("CMakeCache.txt", "HOME=ROOT", &["this folder is the project's CMake", "&& cmake .'"]),
        (
            "m b/meson-info/meson-info.json",
            "{\"source\": \"ROOT\"}",
            &["m b/ is the project's Meson folder", "'rm -r 'm b' && meson setup 'm b''"],
        ),
        ("b/config.status", "srcdir='ROOT'", &["b/ is configured", "(cd b && ../configure)"]),
        (".lock-waf_build", "top_dir = 'ROOT'", &["'rm .lock-waf* && ./waf configure'"]),
        (
            "build.ninja",
            "build a: cc ROOT/a",
            &["build.ninja names the project's folder: ninja there"],
        ),
        ("env/conda-meta/history", "x", &["env/ is the project's conda environment", "--clone"]),
        (
            ".pixi/envs/a/conda-meta/history",
            "x",
            &["pixi environment", "'rm -r .pixi && pixi install'"],
        ),
        (".pdm-python", "ROOT/.venv/bin/python", &["'rm .pdm-python && pdm install'"]),
        ("tmp/a.pid", "PID", &["tmp/a.pid came along, and process PID", "'rm tmp/a.pid'"]),
        ("notes", "ROOT/x", &["notes still names the project's folder", "'calve doctor "]),
        ("target/debug/build/x-0123456789abcdef/output", "ROOT", &[]),
        ("tmp/a.pid", "4294967295", &[]),
    ] {
        let (_scratch, project) = with_project();
        let root = fs::canonicalize(&project).unwrap();
        let fill = |text: &str| {
            text.replace("ROOT", root.to_str().unwrap()).replace("PID", &pid.to_string())
        };
        plant(&project, &[(path, &fill(text)), ("src/CMakeLists.txt", "")]);
        let run = calve(&project, "start w");
        assert_eq!(run.code, Some(0), "{path}: {run:?}");
        let warned: Vec<&str> =
            run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert_eq!(warned.len(), usize::from(!lines.is_empty()), "{path}: {run:?}");
        for line in lines {
            assert!(warned[0].contains(&fill(line)), "{path}: {line}: {run:?}");
        }
        let told = done(&project, "doctor -v");
        let is_named = text != "4294967295";
        assert_eq!(told.lines().any(|line| line.contains(path)), is_named, "{path}: {told}");
    }
}

#[test]
fn a_build_folder_has_one_line_and_json_says_what_a_file_means() {
    let (_scratch, project) = with_project();
    let root = fs::canonicalize(&project).unwrap();
    let root = root.to_str().unwrap();
    for path in ["CMakeCache.txt", "Makefile", "CMakeFiles/a", "compile_commands.json"] {
        plant(&project, &[(&format!("b/{path}"), root)]);
    }
    symlink("../elsewhere/execroot/x", project.join("plain")).unwrap();
    symlink("/nowhere/execroot/_main/bin", project.join("bazel-bin")).unwrap();
    let run = calve(&project, "start w");
    let warned: Vec<&str> = run.stderr.lines().filter(|it| it.starts_with("warning: ")).collect();
    assert_eq!(warned.len(), 2, "{run:?}");
    assert!(warned[1].contains("bazel-bin leads to what bazel built"), "{run:?}");
    let document = calve(&project, "start --json v").json();
    let mentions = document["worktrees"][0]["mentions"].as_array().unwrap();
    let of = |path: &str| mentions.iter().find(|it| it["path"] == path).unwrap();
    for (path, kind, meaning, tool) in [
        ("b/CMakeCache.txt", "build", "false_green", json!("cmake")),
        ("b/compile_commands.json", "build", "leads_back", json!(null)),
        ("bazel-bin", "link_back", "false_green", json!("bazel")),
    ] {
        let found = of(path);
        let is = (&found["kind"], &found["meaning"], &found["tool"], &found["process"]);
        assert_eq!(is, (&json!(kind), &json!(meaning), &tool, &json!(null)), "{document}");
    }
}

#[test]
fn a_count_that_is_cut_says_that_there_is_more() {
    let scratch = scratch();
    let project = scratch.path().join("p");
    let folder = ["x".repeat(250), "y".repeat(250), "z".repeat(250)].join("/");
    plant(&project, &[(&format!("{folder}/tracked"), "1")]);
    for words in [
        &["init", "-q"][..],
        &["add", "."],
        &["-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-qm", "1"],
    ] {
        let git = std::process::Command::new("git").current_dir(&project).args(words).status();
        assert!(git.unwrap().success(), "{words:?}");
    }
    done(&project, "init");
    let worktree = done(&project, "start a");
    let folder = std::path::Path::new(worktree.trim()).join(folder);
    for number in 0..4400 {
        fs::write(folder.join(format!("{}{number:05}", "f".repeat(240))), "").unwrap();
    }
    assert!(done(&project, "list").contains("+ changed"));
    let git = &calve(&project, "list --json").json()["worktrees"][0]["git"];
    assert_eq!(git["has_more_changes"], true, "{git}");
    assert!(git["changes"].as_u64().is_some_and(|changes| changes < 4400), "{git}");
    let refused = calve(&project, "drop a");
    assert!(refused.stderr.contains("more than these paths"), "{:.400}", refused.stderr);
}
