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
