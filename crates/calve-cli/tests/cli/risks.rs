//! What is said before it bites: builds that came along and still are the project's, processes that
//! files name, and counts that are cut.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::{calve, done, plant, scratch, with_project};

#[track_caller]
fn git(project: &Path, words: &[&str]) {
    let mut git = std::process::Command::new("git");
    git.current_dir(project).args(["-c", "user.name=n", "-c", "user.email=e"]).args(words);
    assert!(git.status().unwrap().success(), "{words:?}");
}

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
        (
            "bd/CMakeCache.txt",
            "HOME=ROOT\nCMAKE_HOME_DIRECTORY:INTERNAL=ROOT/src\n",
            &["bd/ is the project's", "'rm -r bd && cmake -S src -B bd'"],
        ),
        (
            "src/CMakeCache.txt",
            "CMAKE_HOME_DIRECTORY:INTERNAL=ROOT/src\n",
            &["'rm -rf src/CMakeCache.txt src/CMakeFiles && cmake -S src -B src'"],
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
        (
            "tmp/a.pid",
            "PID",
            &[
                "tmp/a.pid came along, and names process PID",
                "'rm tmp/a.pid'",
                "printf '%s\\n' /tmp/a.pid >> .calveignore",
            ],
        ),
        ("notes", "ROOT/x", &["notes still names the project's folder", "'calve doctor "]),
        (
            "n/.git/objects/info/alternates",
            "../../../../alt/objects\n",
            &["n/.git/objects/info/alternates leads out of the project by a relative path"],
        ),
        ("n/.git/objects/info/alternates", "/alt/objects\n", &[]),
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
        // A filesystem that cannot share blocks is a finding, too.
        let run = calve(&project, "doctor -v");
        assert!(matches!(run.code, Some(0 | 3)), "{path}: {run:?}");
        let told = run.stdout;
        // doctor looks into no repository inside.
        let is_named = text != "4294967295" && !path.starts_with("n/.git");
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

/// Worktrees are a level deeper than the project, so such a link led nowhere, or to the worktree of
/// that name, and no command said a word.
#[test]
fn a_relative_link_out_of_the_project_is_named_where_it_leads_elsewhere() {
    let (_scratch, project) = with_project();
    fs::create_dir(project.with_file_name("shared")).unwrap();
    symlink("../shared", project.join("out")).unwrap();
    symlink("../../shared", project.join("dir/out")).unwrap();
    symlink("../nowhere", project.join("dangling")).unwrap();
    symlink("dir", project.join("inside")).unwrap();
    let above = project.parent().unwrap().display();
    let said = "dir/out and 1 other file lead out of the project by a relative path";
    for words in ["start w", "start v", &format!("start x --at {above}")] {
        let run = calve(&project, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        assert_eq!(run.stderr.contains(said), !words.contains("--at"), "{words}: {run:?}");
    }
    let told = calve(&project, "doctor").stdout;
    assert!(told.contains("2 files with a relative path out of this folder are here"), "{told}");
}

#[test]
fn a_count_that_is_cut_says_that_there_is_more() {
    let scratch = scratch();
    let project = scratch.path().join("p");
    let folder = ["x".repeat(250), "y".repeat(250), "z".repeat(250)].join("/");
    plant(&project, &[(&format!("{folder}/tracked"), "1")]);
    git(&project, &["init", "-q"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "-qm", "1"]);
    done(&project, "init");
    let worktree = done(&project, "start a");
    let folder = Path::new(worktree.trim()).join(folder);
    for number in 0..4400 {
        fs::write(folder.join(format!("{}{number:05}", "f".repeat(240))), "").unwrap();
    }
    assert!(done(&project, "list").contains("+ uncommitted"));
    let git = &calve(&project, "list --json").json()["worktrees"][0]["git"];
    assert_eq!(git["has_more_uncommitted"], true, "{git}");
    assert!(git["uncommitted"].as_u64().is_some_and(|changes| changes < 4400), "{git}");
    let refused = calve(&project, "drop a");
    assert!(refused.stderr.contains("more than these paths"), "{:.400}", refused.stderr);
}

#[test]
fn push_sends_secrets_only_if_that_is_wanted() {
    let (_scratch, project) = with_project();
    git(&project, &["init", "-q"]);
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n";
    plant(
        &project,
        &[
            (".gitignore", ".env*\n*.pem\n.npmrc\nnode_modules\n"),
            (".env", "TOKEN=secret\n"),
            (".env.example", "TOKEN=\n"),
            ("deploy/a key.pem", key),
            ("deploy/public.pem", "-----BEGIN CERTIFICATE-----\n"),
            (".npmrc", "//registry/:_authToken=x\n"),
            ("web/.npmrc", "save-exact=true\n"),
            ("tracked/id_rsa", key),
            ("node_modules/a/test/key.pem", key),
        ],
    );
    git(&project, &["add", "."]);
    git(&project, &["commit", "-qm", "1"]);
    done(&project, "init");
    fs::create_dir(project.with_file_name("remote")).unwrap();
    let url = format!("file://{}", project.with_file_name("remote").display());
    done(&project, &format!("remote init {url}"));
    done(&project, &format!("remote add team {url}"));
    done(&project, "snapshot ready");
    let run = calve(&project, "push --json ready");
    let error = &run.json()["error"];
    assert_eq!((run.code, &error["kind"]), (Some(1), &json!("secrets")), "{run:?}");
    assert!(run.stderr.contains("this would send 3 files that look like secrets"), "{run:?}");
    assert_eq!(calve(&project, "remote names").stdout, "", "something was sent");
    let run = calve(&project, "push --with-secrets --json ready");
    let secrets = json!([
        { "path": ".env", "kind": "settings" },
        { "path": ".npmrc", "kind": "token" },
        { "path": "deploy/a key.pem", "kind": "private_key" },
    ]);
    assert_eq!((run.code, &run.json()["pushed"][0]["secrets"]), (Some(0), &secrets), "{run:?}");
    let first = run.stderr.lines().next().unwrap();
    assert!(first.starts_with("warning: this sends 3 files that look like secrets"), "{run:?}");
    // The way out works as it is printed.
    let command = first.split("To leave them out: ").nth(1).unwrap();
    let command = command.split(", and take the snapshot again").next().unwrap();
    let shell =
        std::process::Command::new("sh").current_dir(&project).args(["-ec", command]).status();
    assert!(shell.unwrap().success(), "{command}");
    done(&project, "snapshot ready");
    let run = calve(&project, "push --json ready");
    assert_eq!(run.json()["pushed"][0]["secrets"], json!([]), "{run:?}");
    assert!(!run.stderr.contains("secret"), "{run:?}");
    let copy = project.with_file_name("copy");
    done(&project, &format!("checkout {url} ready {}", copy.display()));
    for (path, is_there) in [
        (".env.example", true),
        ("tracked/id_rsa", true),
        (".env", false),
        ("deploy/a key.pem", false),
    ] {
        assert_eq!(copy.join(path).try_exists().unwrap(), is_there, "{path}");
    }
}

/// On btrfs a worktree is a subvolume, and no hard link leads into it.
#[test]
fn a_worktree_into_which_pnpm_cannot_link_is_named_with_the_setting_that_helps() {
    let (_scratch, project) = with_project();
    let store = project.with_file_name("pnpm/store/v3");
    fs::create_dir_all(&store).unwrap();
    plant(&project, &[("node_modules/.modules.yaml", &format!("storeDir: {}\n", store.display()))]);
    let start = |name: &str, configured: bool| {
        let mut command = crate::command(&project, ["start", "--json", name]);
        command.env("HOME", &project).env_remove("XDG_CONFIG_HOME");
        if configured {
            command.env("npm_config_store_dir", &store);
        }
        crate::run(command)
    };
    let run = start("w", false);
    let is_subvolume = run.json()["worktrees"][0]["method"] == "snapshot";
    let way_out = format!("'pnpm config set store-dir {}'", store.parent().unwrap().display());
    assert_eq!(run.stderr.contains(&way_out), is_subvolume, "{run:?}");
    assert!(!start("v", true).stderr.contains("pnpm"));
}
