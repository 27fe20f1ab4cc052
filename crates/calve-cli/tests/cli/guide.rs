//! Runs the lines of the guide for agents and their tools, exactly as they are in the guide.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{not_run, scratch, with_input};

const GUIDE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/worktrees.md"));

const FIVE_MINUTES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/five-minutes.md"));
const SKILL: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../skills/calve/SKILL.md"));
const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));

/// A section of the guide.
fn section(title: &str) -> &'static str {
    let start = GUIDE.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no {title}"));
    let text = &GUIDE[start + 1..];
    text[3..].find("\n## ").map_or(text, |end| &text[..end + 3])
}

/// The blocks of code in a text, each with the text before it.
fn blocks(text: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = text.split("```").collect();
    let code = |text: &str| {
        text.split_once('\n').unwrap().1.lines().map(|line| format!("{line}\n")).collect()
    };
    parts.chunks_exact(2).map(|pair| (pair[0].to_owned(), code(pair[1]))).collect()
}

/// The block after the words `after`.
fn block(text: &str, after: &str) -> String {
    let found = blocks(text).into_iter().find(|(before, _)| before.contains(after));
    found.unwrap_or_else(|| panic!("no block after {after}")).1
}

/// A project of git with a build, in a folder `app`. `my-agent` and calve are on the `PATH`.
struct Desk {
    scratch: tempfile::TempDir,
}

impl Desk {
    /// `None` where there is no git, which is said.
    fn new(test: &str) -> Option<Self> {
        let desk = Self { scratch: scratch() };
        if !desk.shell().args(["-c", "git version"]).output().is_ok_and(|it| it.status.success()) {
            not_run(test, "there is no git");
            return None;
        }
        let bin = desk.at("bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calve"), bin.join("calve")).unwrap();
        fs::write(
            bin.join("my-agent"),
            "#!/bin/sh\nread -r file && echo \"$PWD\" >\"$file\" && echo worked on \"$file\"\n",
        )
        .unwrap();
        fs::set_permissions(bin.join("my-agent"), fs::Permissions::from_mode(0o755)).unwrap();
        for number in 1..=8 {
            fs::create_dir_all(desk.at("tasks")).unwrap();
            fs::write(desk.at("tasks").join(number.to_string()), format!("file-{number}\n"))
                .unwrap();
        }
        desk.run(".", "
            git config --global user.name n; git config --global user.email e; git config --global init.defaultBranch main
            git init -q app; cd app; echo one >a; echo /target >.gitignore; git add -A; git commit -qm one
            mkdir target; echo built >target/out; sleep 0.02
        ");
        Some(desk)
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.scratch.path()).unwrap().join(path)
    }

    fn shell(&self) -> Command {
        let mut path = OsString::from(self.at("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.env("HOME", self.at("")).env("PATH", path).env("GIT_CONFIG_SYSTEM", "/dev/null");
        // git writes the global settings by a rename, also over a device.
        for name in ["CALVE_STORE", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run_with(
        &self,
        folder: &str,
        script: &str,
        variables: &[(&str, PathBuf)],
        input: &str,
    ) -> String {
        let mut command = self.shell();
        command.current_dir(self.at(folder)).args(["-ec", script]);
        command.envs(variables.iter().cloned());
        let output = with_input(command, input);
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn run(&self, folder: &str, script: &str) -> String {
        self.run_with(folder, script, &[], "")
    }
}

#[test]
fn the_script_for_eight_agents_runs_as_it_stands_in_the_guide() {
    let Some(desk) = Desk::new("the_script_for_eight_agents_runs_as_it_stands_in_the_guide") else {
        return;
    };
    let guide = section("Many agents");
    desk.run("app", "calve init -q");
    // Such files of the project belong to nobody else.
    desk.run("app", "echo own | tee .env.local >agent.log");
    desk.run("app", &block(guide, "files of its own"));
    desk.run("app", &block(guide, "start all worktrees"));
    for number in 1..=8 {
        let tree = format!("app.worktrees/fix-{number}");
        let read = |path: &str| fs::read_to_string(desk.at(&tree).join(path)).unwrap();
        assert_eq!(read(".env.local"), format!("PORT={}\n", 2999 + number));
        assert_eq!(read("agent.log"), format!("worked on file-{number}\n"));
        assert_eq!(read("target/out"), "built\n");
        let changed = desk.run(&tree, "git diff --name-only main; git status --porcelain");
        assert_eq!(changed, format!("file-{number}"));
    }
    desk.run("app", &block(guide, "Merge those"));
    assert_eq!(
        desk.run("app", "ls; git branch --format '%(refname:short)'; calve list -q"),
        "\
        a\nagent.log\nfile-1\nfile-2\nfile-3\nfile-4\nfile-5\nfile-6\nfile-7\nfile-8\ntarget\nmain"
    );
}

#[test]
fn commits_of_copies_are_fetched_as_the_guide_says_of_the_second_agent_too() {
    let Some(desk) =
        Desk::new("commits_of_copies_are_fetched_as_the_guide_says_of_the_second_agent_too")
    else {
        return;
    };
    desk.run("app", "calve init -q; calve start -q --git copy fix-1 fix-2");
    for name in ["fix-1", "fix-2"] {
        desk.run(
            &format!("app.worktrees/{name}"),
            &format!("echo x >{name}; git add -A; git commit -qm {name}"),
        );
    }
    desk.run("app", &block(section("Review changes and bring them home"), "Commits of a copy"));
    assert_eq!(desk.run("app", "ls"), "a\nfix-1\nfix-2\ntarget");
}

/// The command that a tool runs, by the tool's name in the guide.
fn commands(tool: &str) -> Vec<String> {
    let text = block(section("Agents' tools"), &format!("**{tool}**"));
    let literal = |key: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = '"))).unwrap();
        vec![line.strip_suffix('\'').unwrap().to_owned()]
    };
    let document = || serde_json::from_str::<Value>(&text).unwrap();
    let words = |value: &Value| value.as_str().unwrap().to_owned();
    match tool {
        "Codex" => literal("script"),
        "Conductor" => literal("setup"),
        "worktrunk" => literal("pre-start"),
        "Cursor" => {
            document()["setup-worktree-unix"].as_array().unwrap().iter().map(words).collect()
        }
        "Zed" => vec![words(&document()[0]["command"])],
        "VS Code" => vec![words(&document()["tasks"][0]["command"])],
        "Copilot CLI" => vec![words(&document()["hooks"]["sessionStart"][0]["bash"])],
        "Claude Code" | "Gemini CLI" => {
            vec![words(&document()["hooks"]["SessionStart"][0]["hooks"][0]["command"])]
        }
        _ => vec![text],
    }
}

/// The commands by which Claude Code lets calve make and remove its worktrees.
fn claude_hooks() -> [String; 2] {
    let text = block(section("Agents' tools"), "Or calve makes the worktrees");
    let document: Value = serde_json::from_str(&text).unwrap();
    ["WorktreeCreate", "WorktreeRemove"]
        .map(|hook| document["hooks"][hook][0]["hooks"][0]["command"].as_str().unwrap().to_owned())
}

#[test]
fn a_tool_that_makes_worktrees_itself_gets_them_filled_by_the_line_in_the_guide() {
    let Some(desk) =
        Desk::new("a_tool_that_makes_worktrees_itself_gets_them_filled_by_the_line_in_the_guide")
    else {
        return;
    };
    // The place of each tool's worktrees, and the variables that the tool sets for the project and
    // the worktree.
    for (tool, place, variables) in [
        ("Codex", "codex/1/app", ["CODEX_SOURCE_TREE_PATH", "CODEX_WORKTREE_PATH"]),
        ("Conductor", "app/.conductor/tokyo", ["CONDUCTOR_ROOT_PATH", "CONDUCTOR_WORKSPACE_PATH"]),
        ("Cursor", "cursor/app/1", ["ROOT_WORKTREE_PATH", "CURSOR_WORKTREE_PATH"]),
        ("Zed", "zed", ["ZED_MAIN_GIT_WORKTREE", "ZED_WORKTREE_ROOT"]),
        ("worktrunk", "app.wt", ["", ""]),
        ("Claude Code", "app/.claude/worktrees/1", ["", ""]),
        ("VS Code", "code", ["", ""]),
        ("Copilot CLI", "copilot", ["", ""]),
        ("Gemini CLI", "gemini", ["", ""]),
        ("Any other", "other", ["", ""]),
    ] {
        let tree = desk.at(place);
        desk.run("app", &format!("git worktree add -q --detach {}", tree.display()));
        let variables: Vec<_> = variables
            .into_iter()
            .zip([desk.at("app"), tree.clone()])
            .filter(|(name, _)| !name.is_empty())
            .collect();
        for command in commands(tool) {
            // worktrunk describes its action on standard input.
            desk.run_with(place, &command, &variables, "{\"hook_type\": \"pre-start\"}");
        }
        assert_eq!(fs::read_to_string(tree.join("target/out")).unwrap(), "built\n", "{tool}");
        assert_eq!(desk.run(place, "git status --porcelain; ls"), "a\ntarget", "{tool}");
    }
}

#[test]
fn claude_code_and_an_alias_of_git_start_worktrees_by_the_lines_in_the_guide() {
    let Some(desk) =
        Desk::new("claude_code_and_an_alias_of_git_start_worktrees_by_the_lines_in_the_guide")
    else {
        return;
    };
    desk.run("app", &format!("calve init -q; {}", commands("git").concat()));
    let made = desk.run("app", "mkdir sub; cd sub; git wt -q fix-9");
    assert_eq!(made, desk.at("app.worktrees/fix-9").to_str().unwrap());
    let [create, remove] = claude_hooks();
    let message = json!({"session_id": "1", "hook_event_name": "WorktreeCreate", "cwd": desk.at("app"), "name": "feat/x"});
    let path = desk.run_with(".", &create, &[], &message.to_string());
    assert_eq!(path, desk.at("app/.claude/worktrees/feat-x").to_str().unwrap());
    let known = desk.run("app", "git worktree list");
    assert!(known.contains("[feat/x]") && known.contains("[fix-9]"), "{known}");
    let message = json!({"hook_event_name": "WorktreeRemove", "worktree_path": path});
    for _ in 0..2 {
        desk.run_with(".", &remove, &[], &message.to_string());
    }
    assert!(!Path::new(&path).try_exists().unwrap());
}

/// The lines stand in files that others share, who have no calve.
#[test]
fn the_lines_for_tools_are_safe_where_calve_is_not_installed() {
    let Some(desk) = Desk::new("the_lines_for_tools_are_safe_where_calve_is_not_installed") else {
        return;
    };
    fs::remove_file(desk.at("bin/calve")).unwrap();
    if !desk.run(".", "command -v calve || true").is_empty() {
        return not_run("where_calve_is_not_installed", "it is installed on this machine");
    }
    for tool in ["Claude Code", "VS Code", "Copilot CLI", "Gemini CLI", "Any other"] {
        for command in commands(tool) {
            assert_eq!(desk.run("app", &command), "", "{tool}");
        }
    }
    let [create, remove] = claude_hooks();
    let app = desk.at("app");
    let message =
        json!({"session_id": "1", "hook_event_name": "WorktreeCreate", "cwd": app, "name": "fix"});
    let path = desk.run_with("app", &create, &[], &message.to_string());
    assert_eq!(path, app.join(".claude/worktrees/fix").to_str().unwrap());
    assert_eq!(desk.run(&path, "git branch --show-current; cat a"), "fix\none");
    let message = json!({"hook_event_name": "WorktreeRemove", "worktree_path": path});
    desk.run_with("app", &remove, &[], &message.to_string());
    assert!(!Path::new(&path).try_exists().unwrap());
}

#[test]
fn the_commands_of_the_skill_run_as_they_stand() {
    let Some(desk) = Desk::new("the_commands_of_the_skill_run_as_they_stand") else { return };
    let commands: Vec<&str> = SKILL
        .split("```sh\n")
        .skip(1)
        .flat_map(|it| it.split("```").next())
        .flat_map(str::lines)
        .collect();
    assert!(commands.len() > 9, "{commands:?}");
    run_session(&desk, "app", &commands);
    assert_eq!(
        desk.run("app", "cat fix; git branch --format '%(refname:short)'; calve list -q"),
        "fixed\nmain"
    );
}

/// Runs commands one after the other in one shell. `status` and `doctor` may have findings (3).
fn run_session(desk: &Desk, folder: &str, commands: &[&str]) {
    let lines = commands.iter().map(|command| {
        let command = command.split_once("  #").map_or(*command, |(command, _)| command);
        format!("{command} || {{ code=$?; test $code = 3 || exit $code; }}\n")
    });
    desk.run(folder, &lines.collect::<String>());
}

#[test]
fn the_five_minutes_run_as_they_stand_on_their_page() {
    let Some(desk) = Desk::new("the_five_minutes_run_as_they_stand_on_their_page") else {
        return;
    };
    let shell: Vec<&str> = FIVE_MINUTES.split("```sh\n").skip(1).collect();
    let commands: Vec<&str> =
        shell.iter().flat_map(|it| it.split("```").next()).flat_map(str::lines).collect();
    assert!(commands.len() > 15, "{commands:?}");
    run_session(&desk, ".", &commands);
    assert_eq!(
        desk.run("app", "cat fix; ls ../app.worktrees; git branch --format '%(refname:short)'"),
        "fixed\nfix-2\nmain"
    );
}

#[test]
fn the_first_session_of_the_readme_runs_as_it_stands() {
    let Some(desk) = Desk::new("the_first_session_of_the_readme_runs_as_it_stands") else {
        return;
    };
    // Its compiler is none here.
    desk.run("bin", "printf '#!/bin/sh\n' >cargo; chmod +x cargo");
    let (_, block) = README.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let commands: Vec<&str> = block
        .lines()
        .filter_map(|line| line.split_once(" $ "))
        .map(|(_, command)| command)
        .collect();
    assert!(commands.len() > 2, "{commands:?}");
    run_session(&desk, "app", &commands);
    assert_eq!(desk.run("app.worktrees/agent-1", "cat target/out"), "built");
}

/// A block of a guide's commands: its page, its first words, the folder in which it runs, what was done in `app` before,
/// and what holds in `app` afterwards.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const PUSHED: &str = "calve remote key >/dev/null; cp -a . ../first; cd ../first; calve init -q; calve remote init -q file:///srv/trees; \
    calve remote add -q team file:///srv/trees; calve snapshot -q ready; calve push -q ready; mkdir ../far; cd ../app";

const ROWS: &[Row] = &[
    (
        "README.md",
        "agent-1 $ sed",
        "app.worktrees/agent-1",
        "mkdir -p tiny/src; echo 'left + right' >tiny/src/lib.rs; git add .; git commit -qm two; calve start -q agent-{1..3}",
        "grep saturating tiny/src/lib.rs; test \"$(git branch)\" = '* main'",
    ),
    (
        "git.md",
        "$ cd app && calve start",
        ".",
        "git config calve.afterStart 'test $CALVE_NAME = fix-2 || echo fixed >>a'",
        "grep fixed a; ! test -e ../app.worktrees/fix-1; cd ../app.worktrees/fix-2",
    ),
    ("git.md", "git config calve.afterStart", "app", "", "calve start x; grep 'npm rebuild' ~/ran"),
    ("git.md", "$ git worktree add", "app", "", "test -e ../app-fix/target/out"),
    (
        "worktrees.md",
        "$ cd app\n",
        ".",
        "git config calve.afterStart 'test $CALVE_NAME != agent-2 || echo agent-2 >by'",
        "! test -e ../app.worktrees/agent-1; grep agent-2 ../app.worktrees/agent-3/by",
    ),
    (
        "worktrees.md",
        "calve run fix-1 -- ninja",
        "app",
        "calve start -q fix-1",
        "grep -c \" in $PWD$\" ~/ran | grep 2",
    ),
    (
        "worktrees.md",
        "calve run fix-1 -- sh",
        "app",
        "calve start -q fix-1; printf '#!/bin/sh\ngit commit -q --allow-empty -m made; ! touch ~/out\n' >../bin/my-agent",
        "git log fix-1 | grep made; ! test -e ~/out",
    ),
    (
        "worktrees.md",
        "eval \"$(calve env)\"  ",
        "app.worktrees/fix-1",
        "calve start -q fix-1",
        "grep 'createdb app_1 ' ~/ran; grep 'vite --port 3010 ' ~/ran; grep CALVE_SLOT=1 ../app.worktrees/fix-1/.env.local",
    ),
    ("worktrees.md", "eval \"$(calve env 2>", "app", "", ""),
    ("fleet.md", "$ calve remote init", "app", "", "test -e ../app.worktrees/fix-1/target/out"),
    (
        "fleet.md",
        "$ calve checkout",
        "far",
        "PUSHED",
        "test -e ../far/app.worktrees/fix-1/target/out",
    ),
    (
        "fleet.md",
        "git clone --no-checkout",
        "far",
        "PUSHED; cd ../far; calve checkout -q file:///srv/trees ready app",
        "cd ../far/app; test -z \"$(git status --porcelain)\"; git log | grep one",
    ),
    (
        "fleet.md",
        "$ calve remote key   ",
        "app",
        "PUSHED; calve init -q",
        "calve pull ready --from team",
    ),
    (
        "fleet.md",
        "$ calve remote key >>",
        "app",
        "PUSHED; calve init -q",
        "git commit -qm keys; calve pull ready --from team",
    ),
    ("fleet.md", "mkdir /srv/trees", "app", "", "test \"$(stat -c %a /srv/trees)\" = 2770"),
    ("fleet.md", "calve init && calve remote", "app", "PUSHED", "calve remote log ready"),
    (
        "fleet.md",
        "$ calve remote gc",
        "first",
        "PUSHED",
        "cd ../first; calve pull ready --from team",
    ),
    ("store.md", "$ calve store stats", "app", "calve start -q old-1", "calve store verify"),
    (
        "store.md",
        "$ calve list && calve drop",
        "app",
        "calve start -q old-1 old-2",
        "test \"$(git worktree list | wc -l)\" = 1",
    ),
    (
        "linker.md",
        "for package in",
        "app",
        "mkdir -p cache/one cache/two venv/lib/python3.13/site-packages; echo 1 >cache/one/1.py; echo 2 >cache/two/2.py",
        "cat venv/lib/python3.13/site-packages/{1,2}.py",
    ),
];

/// Blocks that no row runs, and why.
const APART: &[(&str, &str, &str)] = &[
    ("README.md", "~/app $ calve start", "another test runs it"),
    (
        "README.md",
        "curl",
        "it installs: `scripts/release check` does it from the files of a release",
    ),
    ("README.md", "cargo run", "it builds calve, and runs the suite"),
    ("README.md", "~ $ calve volume", "it needs root: the tests of volumes do it"),
    ("five-minutes.md", "~/app $ calve volume", "it needs root: the tests of volumes do it"),
    ("filesystems.md", "~ $ calve volume", "it needs root: the tests of volumes do it"),
    ("filesystems.md", "docker", "it needs docker"),
    ("linker.md", "$ cargo run", "it builds an example of the library"),
    ("linker.md", "cargo build", "it fetches 206 packages and measures"),
    ("fleet.md", "export AWS_", "it needs a bucket: `scripts/cloud` has one"),
    (
        "fleet.md",
        "$ calve remote add web",
        "it needs the feature `cloud`: `scripts/cloud` tries it",
    ),
    ("worktrees.md", "printf", "the test of the script for eight agents runs it"),
    ("worktrees.md", "calve snapshot -q ready", "the test of the script for eight agents runs it"),
    ("worktrees.md", "for branch", "the test of the script for eight agents runs it"),
    ("worktrees.md", "for name", "the test of commits of copies runs it"),
    ("worktrees.md", "command -v calve", "the tests of tools run it"),
    ("worktrees.md", "git config alias.wt", "the test of an alias runs it"),
];

/// The blocks of commands in the guides: page, text. Those of `sh` in the five minutes are one session, which another
/// test runs.
fn guides() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path()));
    let mut found = Vec::new();
    for path in pages {
        let page = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Those who work on calve measure and try it by the commands there, for minutes and hours.
        let for_developers = page.starts_with("benchmarks") || page.starts_with("reliability");
        if path.extension().is_none_or(|end| end != "md") || for_developers {
            continue;
        }
        for part in fs::read_to_string(&path).unwrap().split("```").skip(1).step_by(2) {
            let (kind, text) = part.split_once('\n').unwrap();
            if kind == "console" || kind == "sh" && page != "five-minutes.md" {
                let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
                found.push((page.clone(), lines.join("\n") + "\n"));
            }
        }
    }
    found
}

fn run_row(desk: &Desk, &(page, first, folder, before, after): &Row, text: &str) {
    // The lines after a prompt, if there are prompts. A line goes on after a backslash.
    let text = text.replace("\\\n", "").replace("\n\n", "\n");
    let prompts =
        text.lines().filter_map(|line| line.split_once("$ ").filter(|(it, _)| !it.contains("# ")));
    let commands: Vec<&str> = if first.contains("$ ") && !first.contains('(') {
        prompts.map(|(_, command)| command).collect()
    } else {
        text.lines().collect()
    };
    let trees = desk.at("trees").display().to_string();
    let place = |text: &str| {
        [
            ("PUSHED", PUSHED),
            ("/srv/trees", &*trees),
            ("/mnt/trees", &trees),
            ("REPOSITORY", "../app"),
            ("9b1c…", "$(calve remote key)"),
            ("$TRUSTED_KEY", "$(calve remote key)"),
            ("$SECRET_FILE", "$HOME/.config/calve/key"),
            ("devs", "$(id -gn)"),
        ]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let commands: Vec<String> = commands.into_iter().map(place).collect();
    desk.run("app", &place(before));
    run_session(desk, folder, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    desk.run("app", &format!("{} >&2 # {page}: {first}", place(after)));
}

#[test]
fn each_block_of_commands_in_the_guides_runs_as_it_stands() {
    let name = "each_block_of_commands_in_the_guides_runs_as_it_stands";
    let (mut rows, mut apart) = (vec![false; ROWS.len()], vec![false; APART.len()]);
    for (page, text) in guides() {
        let is_it = |of: &str, first: &str| page == of && text.starts_with(first);
        if let Some(at) = APART.iter().position(|row| is_it(row.0, row.1)) {
            apart[at] = true;
            continue;
        }
        let at = ROWS.iter().position(|row| is_it(row.0, row.1));
        let at = at.unwrap_or_else(|| panic!("{page}: no row runs this block:\n{text}"));
        rows[at] = true;
        let Some(desk) = Desk::new(name) else { return };
        for program in ["ninja", "gdb", "createdb", "vite", "direnv", "npm"] {
            desk.run("bin", &format!("printf '#!/bin/sh\\necho \"{program} $* in $PWD\" >>\"$HOME/ran\"\\n' >{program}; chmod +x {program}"));
        }
        let needs = match &text {
            it if it.contains("bwrap") => {
                // A folder of tests below /tmp is not there in that sandbox.
                "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp sh -c 'command -v my-agent' && unshare -rm true"
            }
            it if it.contains("calve run") => "unshare -rm true",
            _ => "true",
        };
        if desk.shell().args(["-c", needs]).output().is_ok_and(|it| it.status.success()) {
            run_row(&desk, &ROWS[at], &text);
        } else {
            not_run(name, &format!("{page}, {}: there is no {needs}", ROWS[at].1));
        }
    }
    assert!(rows.into_iter().chain(apart).all(|it| it), "a row is of no block");
}
