//! Tests the output of `push`, `pull`, `remote`, `key` and `start --from REMOTE/NAME`, and their
//! documents.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Run, calve, command, done, plant, run, with_project};

/// Two projects, and a remote that both know as `team`. The tests do not use the key of the user
/// who runs them.
struct Desk {
    _scratch: TempDir,
    here: PathBuf,
    there: PathBuf,
    url: String,
}

impl Desk {
    fn new() -> Self {
        let (scratch, here) = with_project();
        let root = here.parent().unwrap().to_owned();
        plant(&root, &[("q/own", "own"), ("remote/", "")]);
        let there = root.join("q");
        done(&there, "init");
        let url = format!("file://{}", root.join("remote").to_str().unwrap());
        let desk = Self { _scratch: scratch, here, there, url };
        let made = desk.run(&desk.here, &format!("remote init {}", desk.url));
        assert_eq!(
            (made.code, made.stdout.as_str()),
            (Some(0), format!("{}\n", desk.url).as_str())
        );
        assert!(made.stderr.contains("'calve remote add NAME file:///"), "{made:?}");
        for project in [&desk.here, &desk.there] {
            desk.done(project, &format!("remote add team {}", desk.url));
        }
        desk
    }

    fn run(&self, project: &Path, words: &str) -> Run {
        let mut command = command(project, words.split_whitespace());
        command
            .env_remove("CALVE_KEY")
            .env("XDG_CONFIG_HOME", self.here.with_file_name("settings"));
        run(command)
    }

    #[track_caller]
    fn done(&self, project: &Path, words: &str) -> String {
        let run = self.run(project, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run.stdout.trim_end().to_owned()
    }

    #[track_caller]
    fn json(&self, project: &Path, words: &str) -> Value {
        let run = self.run(project, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run.json()
    }
}

#[test]
fn a_snapshot_goes_from_one_project_to_another_under_its_name() {
    let desk = Desk::new();
    let id = desk.done(&desk.here, "snapshot ready");
    let pushed = desk.run(&desk.here, "push ready");
    assert_eq!((pushed.code, pushed.stdout.trim_end()), (Some(0), id.as_str()), "{pushed:?}");
    assert!(pushed.stderr.contains("team/ready is now snapshot"), "{pushed:?}");
    let again = desk.run(&desk.here, "push ready");
    assert!(again.stderr.contains("nothing to do: team/ready is snapshot"), "{again:?}");

    let pulled = desk.run(&desk.there, "pull ready --as base");
    assert_eq!((pulled.code, pulled.stdout.trim_end()), (Some(0), id.as_str()), "{pulled:?}");
    assert!(pulled.stderr.contains("fetched 2 of 2 contents"), "{pulled:?}");
    assert!(desk.run(&desk.there, "pull ready").stderr.contains("everything was here"));
    assert!(desk.done(&desk.there, "name").starts_with("base "));

    // A start pulls by itself, and another one from the local name needs no remote.
    fs::write(desk.here.join("a"), "edited\n").unwrap();
    let second = desk.done(&desk.here, "snapshot");
    desk.done(&desk.here, "push --as ready");
    let path = desk.done(&desk.there, "start --from team/ready fresh");
    assert_eq!(fs::read_to_string(Path::new(&path).join("a")).unwrap(), "edited\n");
    let path = desk.done(&desk.there, "start --from base old");
    assert_eq!(fs::read_to_string(Path::new(&path).join("a")).unwrap(), "alpha\n");
    assert_eq!(desk.done(&desk.there, "pull team/ready"), second);
    let log = desk.done(&desk.there, "remote log team/ready -v");
    assert_eq!(log, desk.done(&desk.there, "remote log ready -v"));
    let ids: Vec<_> = log.lines().map(|line| line.contains(&second)).collect();
    assert_eq!(ids, [true, false], "{log}");
}

#[test]
fn each_verb_has_its_document() {
    let desk = Desk::new();
    let id = desk.done(&desk.here, "snapshot ready");
    let list = desk.json(&desk.here, "remote list --json");
    assert_eq!(list["remotes"][0]["name"], "team");
    assert_eq!(list["remotes"][0]["url"], desk.url);
    assert_eq!(list["remotes"][0]["keys"], json!([]));
    let pushed = desk.json(&desk.here, "push --json ready");
    let one = &pushed["pushed"][0];
    assert_eq!(pushed["remote"], "team");
    assert_eq!((&one["snapshot"], &one["name"]), (&json!(id), &json!("ready")));
    assert_eq!((&one["sequence"], &one["unchanged"]), (&json!(1), &json!(false)));
    assert_eq!((&one["contents"], &one["content_bytes"]), (&json!(2), &json!(11)));
    assert_eq!((&one["packs"], &one["resumed_packs"]), (&json!(1), &json!(0)));
    for field in ["sent_bytes", "requests", "elapsed_seconds"] {
        assert!(one[field].is_number(), "{field}: {one}");
    }
    let names = desk.json(&desk.here, "remote names --json");
    assert_eq!(names["names"][0]["name"], "ready");
    assert_eq!(names["names"][0]["snapshot"], id);
    assert_eq!(names["names"][0]["signers"], json!([]));
    assert_eq!(desk.json(&desk.here, "remote log ready --json"), names);
    let pulled = desk.json(&desk.there, "pull --json ready");
    assert_eq!((&pulled["snapshot"], &pulled["sequence"]), (&json!(id), &json!(1)));
    assert_eq!((&pulled["contents"], &pulled["fetched"]), (&json!(2), &json!(2)));
    assert_eq!(pulled["fetched_bytes"], 11);
    for field in ["received_bytes", "requests", "elapsed_seconds"] {
        assert!(pulled[field].is_number(), "{field}: {pulled}");
    }
    assert_eq!(desk.json(&desk.here, "remote remove team --json"), json!({ "name": "team" }));
    assert_eq!(desk.json(&desk.here, "remote list --json"), json!({ "remotes": [] }));
}

#[test]
fn what_is_damaged_is_told_and_a_push_mends_what_is_gone() {
    let desk = Desk::new();
    let id = desk.done(&desk.here, "snapshot ready");
    desk.done(&desk.here, "push ready");
    for flag in ["", " --quick"] {
        let sound = desk.run(&desk.here, &format!("remote verify{flag}"));
        assert_eq!((sound.code, sound.stdout.as_str()), (Some(0), ""), "{sound:?}");
        assert!(sound.stderr.contains("checked 1 snapshot of team and 2 objects"), "{sound:?}");
    }
    let packs = desk.here.with_file_name("remote").join("packs");
    let pack = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let mut content = fs::read(&pack).unwrap();
    content[20] ^= 1;
    fs::write(&pack, content).unwrap();
    assert_eq!(desk.run(&desk.here, "remote verify --quick").code, Some(0));
    let damaged = desk.run(&desk.here, "remote verify team");
    assert_eq!(damaged.code, Some(3), "{damaged:?}");
    assert!(damaged.stdout.starts_with("damaged  file:///"), "{damaged:?}");
    assert!(damaged.stdout.contains(&format!("broken  {}  ready", &id[..12])), "{damaged:?}");
    let rm = format!("rm {}", pack.display());
    assert!(damaged.stderr.contains(&format!("first {rm}; then push")), "{damaged:?}");
    let pulled = desk.run(&desk.there, "pull ready");
    assert!(pulled.code == Some(1) && pulled.stderr.contains(&rm), "{pulled:?}");
    fs::remove_file(&pack).unwrap();
    let run = desk.run(&desk.here, "remote verify --json --quick");
    assert_eq!(run.code, Some(3), "{run:?}");
    let document = run.json();
    assert_eq!(document["damage"][0]["kind"], "missing");
    assert_eq!(document["broken"], json!([{ "snapshot": id, "names": ["ready"] }]));
    assert_eq!(document["whole"], json!([]));
    let pulled = desk.run(&desk.there, "pull ready");
    assert!(pulled.code == Some(1) && pulled.stderr.contains("gone from the remote"), "{pulled:?}");
    desk.done(&desk.here, "push ready");
    assert_eq!(desk.json(&desk.here, "remote verify --json")["whole"], json!([id]));
    // A truncated object is damaged, so a push replaces it.
    for folder in ["packs", "parts", "snapshots"] {
        let folder = desk.here.with_file_name("remote").join(folder);
        let cut = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        fs::write(&cut, "cut").unwrap();
        let found = desk.run(&desk.here, "remote verify --quick");
        assert_eq!(found.code, Some(3), "{cut:?}: {found:?}");
        desk.done(&desk.here, "push ready");
        assert_eq!(desk.json(&desk.here, "remote verify --json")["whole"], json!([id]), "{cut:?}");
    }
    desk.done(&desk.there, "pull ready");
}

#[test]
fn a_collection_marks_first_and_removes_later_and_what_is_named_stays() {
    let desk = Desk::new();
    for text in ["first", "second", "third", "fourth"] {
        plant(&desk.here, &[("own", text)]);
        desk.done(&desk.here, "snapshot ready");
        desk.done(&desk.here, "push ready");
    }
    let kept = desk.run(&desk.here, "remote gc --grace 0s");
    assert!(kept.code == Some(0) && kept.stderr.contains("nothing to remove"), "{kept:?}");
    let marked = desk.json(&desk.here, "remote gc --json --grace 0s --keep 0");
    assert_eq!((&marked["remote"], &marked["dry_run"]), (&json!("team"), &json!(false)));
    assert_eq!(
        (&marked["waiting"]["changes"], &marked["waiting"]["snapshots"]),
        (&json!(1), &json!(3))
    );
    assert_eq!((&marked["removed"]["changes"], &marked["snapshots"]), (&json!(0), &json!(1)));
    assert_eq!(marked["missing"], json!([]));
    let dry = desk.run(&desk.here, "remote gc --grace 0s --keep 0 --dry-run team");
    assert!(
        dry.stderr.contains("would remove from team: 1 change of a name, 3 snapshots"),
        "{dry:?}"
    );
    let done = desk.run(&desk.here, "remote gc --grace 0s --keep 0");
    assert!(done.stderr.contains("removed from team: 1 change of a name, 3 snapshots"), "{done:?}");
    // The others lead those who cannot list the remote to the newest one.
    let log = desk.json(&desk.here, "remote log ready --json");
    let log: Vec<_> = log["names"].as_array().unwrap().iter().collect();
    let log: Vec<_> = log.iter().map(|one| (&one["sequence"], &one["collected"])).collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(log, [(&json!(4), &no), (&json!(2), &yes), (&json!(1), &yes)]);
    let log = desk.done(&desk.here, "remote log ready");
    assert!(log.lines().nth(1).is_some_and(|line| line.ends_with("unsigned, collected")), "{log}");
    let sound = desk.json(&desk.here, "remote verify --json");
    assert_eq!((&sound["damage"], &sound["collected"]), (&json!([]), &json!(2)));
    desk.done(&desk.there, "start --from team/ready x");
    assert_eq!(
        fs::read_to_string(desk.there.with_file_name("q.worktrees").join("x/own")).unwrap(),
        "fourth"
    );
}

#[test]
fn a_key_is_made_once_and_signs_what_is_pushed() {
    let desk = Desk::new();
    let made = desk.run(&desk.here, "remote key");
    assert!(made.stderr.contains("keep this file secret"), "{made:?}");
    let public = made.stdout.trim_end().to_owned();
    let file = desk.here.with_file_name("settings").join("calve/key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(desk.json(&desk.here, "remote key --json"), json!({ "public": public }));

    desk.done(&desk.there, "remote remove team");
    desk.done(&desk.there, &format!("remote add team {} --key {public}", desk.url));
    desk.done(&desk.here, "snapshot ready");
    fs::rename(&file, file.with_extension("away")).unwrap();
    desk.done(&desk.here, "push ready");
    let refused = desk.run(&desk.there, "pull ready");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("none of the configured keys has signed it"), "{refused:?}");
    fs::rename(file.with_extension("away"), &file).unwrap();
    desk.done(&desk.here, "push ready");
    let pulled = desk.json(&desk.there, "pull --json ready");
    assert_eq!(pulled["signers"], json!([public]));
    let names = desk.done(&desk.there, "remote names -v");
    assert!(names.contains(&format!("signed by {public}")), "{names}");

    // A store with the same keys as this one will not trust the pushed name.
    desk.done(&desk.here, "remote remove team");
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let add = format!("remote add team {} --key {other}", desk.url);
    desk.done(&desk.here, &format!("{add} --key {other}"));
    assert_eq!(desk.json(&desk.here, "remote list --json")["remotes"][0]["keys"], json!([other]));
    desk.done(&desk.here, &add);
    let foreign = desk.run(&desk.here, "push ready");
    assert_eq!(foreign.code, Some(3), "{foreign:?}");
    assert!(
        foreign.stderr.contains(&format!("signed with {public}, which is none")),
        "{foreign:?}"
    );
    desk.done(&desk.here, "remote remove team");
    desk.done(&desk.here, &format!("remote add team {} --key {public}", desk.url));
    desk.done(&desk.here, "push ready");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = desk.run(&desk.here, "push ready");
    assert!(open.code == Some(1) && open.stderr.contains("chmod 600"), "{open:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "no key\n").unwrap();
    let wrong = desk.run(&desk.here, "push ready");
    assert!(wrong.code == Some(1) && wrong.stderr.contains("64 hexadecimal"), "{wrong:?}");
    let wrong = desk.run(&desk.there, "remote add other file:///tmp --key 00");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn the_keys_that_a_project_names_count_when_its_user_says_so_and_never_by_a_pull() {
    let desk = Desk::new();
    let root = desk.here.parent().unwrap().to_owned();
    let key =
        |name: &str| desk.done(&desk.here, &format!("remote key --file {}/{name}", root.display()));
    let [ada, grace, eve] = ["ada", "grace", "eve"].map(key);
    let push = |who: &str, text: &str| {
        plant(&desk.here, &[("own", text)]);
        desk.done(&desk.here, "snapshot ready");
        desk.done(&desk.here, &format!("push ready --key {}/{who}", root.display()));
    };
    let trusted = || {
        let list = desk.json(&desk.there, "remote list --json");
        (list["remotes"][0]["keys"].clone(), list["remotes"][0]["project_keys"].clone())
    };
    let file = desk.there.join(".calvekeys");
    desk.done(&desk.there, "remote remove team");
    fs::write(&file, format!("# who may push\n{ada} Ada\n")).unwrap();
    let add = format!("remote add team {}", desk.url);
    let added = desk.run(&desk.there, &add);
    assert_eq!(added.code, Some(0), "{added:?}");
    let says = format!("one key, 1 from {}: {}…", file.display(), &ada[..12]);
    assert!(added.stderr.contains(&says), "{added:?}");
    assert_eq!(trusted(), (json!([ada]), json!([ada])));
    push("eve", "eve");
    assert_eq!(desk.run(&desk.there, "pull ready").code, Some(1));
    push("ada", "ada");
    let quiet = desk.run(&desk.there, "pull ready");
    assert!(quiet.code == Some(0) && !quiet.stderr.contains("calvekeys"), "{quiet:?}");

    // Somebody is added: all transfers say so, with the command, which does it.
    fs::write(&file, format!("{ada} Ada\n{grace} Grace\n")).unwrap();
    let id = quiet.stdout.trim_end();
    for words in ["pull ready", &format!("push {id}"), "start --from team/ready one"] {
        let told = desk.run(&desk.there, words);
        assert_eq!(told.code, Some(0), "{words}: {told:?}");
        let says = format!("has 1 key that team does not trust ({}…)", &grace[..12]);
        assert!(told.stderr.contains(&says), "{words}: {told:?}");
        assert!(told.stderr.contains(&format!("calve {add}\n")), "{words}: {told:?}");
        assert_eq!(trusted(), (json!([ada]), json!([ada])), "{words}");
    }
    push("grace", "grace");
    assert_eq!(desk.run(&desk.there, "pull ready").code, Some(1));
    desk.done(&desk.there, &add);
    assert_eq!(trusted(), (json!([ada, grace]), json!([ada, grace])));
    let quiet = desk.run(&desk.there, "pull ready");
    assert!(quiet.code == Some(0) && !quiet.stderr.contains("calvekeys"), "{quiet:?}");

    // Somebody left.
    fs::write(&file, &grace).unwrap();
    let told = desk.run(&desk.there, "pull ready");
    let says = format!("lacks 1 key that team trusts ({}…); if", &ada[..12]);
    assert!(told.code == Some(0) && told.stderr.contains(&says), "{told:?}");
    desk.done(&desk.there, &add);
    assert_eq!(trusted(), (json!([grace]), json!([grace])));
    // With no key at all a remote would need no signature.
    for text in ["", "# nobody\n"] {
        fs::write(&file, text).unwrap();
        let quiet = desk.run(&desk.there, "pull ready");
        assert!(quiet.code == Some(0) && !quiet.stderr.contains("calvekeys"), "{quiet:?}");
        let refused = desk.run(&desk.there, &format!("{add} --json"));
        assert_eq!(refused.json()["error"]["kind"], "remote_exists", "{refused:?}");
        assert!(refused.stderr.contains("would need none any more"), "{refused:?}");
    }
    // A key that was named by hand stays, and is no difference.
    fs::remove_file(&file).unwrap();
    desk.done(&desk.there, "remote remove team");
    desk.done(&desk.there, &format!("{add} --key {eve}"));
    fs::write(&file, format!("{ada}\n{grace}\n")).unwrap();
    let told = desk.run(&desk.there, "pull ready");
    assert_eq!(told.code, Some(1), "grace has signed it: {told:?}");
    assert!(told.stderr.contains(&format!("calve {add} --key {eve}\n")), "{told:?}");
    desk.done(&desk.there, &format!("{add} --key {eve}"));
    assert_eq!(trusted(), (json!([eve, ada, grace]), json!([ada, grace])));
    let other = desk.run(&desk.there, &format!("{add} --json"));
    assert_eq!(other.json()["error"]["kind"], "remote_exists", "{other:?}");
    let quiet = desk.run(&desk.there, "pull ready");
    assert!(quiet.code == Some(0) && !quiet.stderr.contains("calvekeys"), "{quiet:?}");

    // Such a file in a tree does not make any key trusted.
    let before = trusted();
    let mallory = key("mallory");
    plant(&desk.here, &[(".calvekeys", &mallory)]);
    push("ada", "with keys");
    desk.done(&desk.there, "start --from team/ready two");
    let two = desk.there.with_file_name("q.worktrees").join("two");
    assert_eq!(fs::read_to_string(two.join(".calvekeys")).unwrap(), mallory);
    desk.done(&two, "pull ready");
    push("mallory", "mine");
    for project in [&desk.there, &two] {
        let refused = desk.run(project, "pull ready");
        assert!(refused.code == Some(1) && !refused.stderr.contains(&mallory[..12]), "{refused:?}");
    }
    assert_eq!(trusted(), before);
}

#[test]
fn a_file_of_keys_that_is_none_is_refused_with_the_reason_and_a_pull_goes_on_without_it() {
    let desk = Desk::new();
    desk.done(&desk.here, "snapshot ready");
    desk.done(&desk.here, "push ready");
    let file = desk.there.join(".calvekeys");
    let key = desk.done(&desk.here, "remote key");
    fs::write(desk.there.with_file_name("keys"), &key).unwrap();
    for (row, part) in [
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("huge", "64 KiB"),
        ("wrong", "line 2 does not begin with a public key"),
    ] {
        match row {
            "folder" => fs::create_dir(&file).unwrap(),
            "pipe" => {
                let made = std::process::Command::new("mkfifo").arg(&file).status();
                assert!(made.unwrap().success());
            }
            "link" => std::os::unix::fs::symlink("../keys", &file).unwrap(),
            "dangling" => std::os::unix::fs::symlink("none", &file).unwrap(),
            "huge" => fs::write(&file, "# no key\n".repeat(10_000)).unwrap(),
            _ => fs::write(&file, format!("{key}\nAda {key}\n")).unwrap(),
        }
        let words = format!("remote add second {} --json", desk.url);
        let refused = desk.run(&desk.there, &words);
        assert_eq!(refused.code, Some(1), "{row}: {refused:?}");
        assert_eq!(refused.json()["error"]["kind"], "invalid_name", "{row}: {refused:?}");
        assert!(refused.stderr.contains(part), "{row}: {refused:?}");
        let told = desk.run(&desk.there, "pull ready");
        assert!(told.code == Some(0) && told.stderr.contains(part), "{row}: {told:?}");
        assert!(told.stderr.contains(file.to_str().unwrap()), "{row}: {told:?}");
        let list = desk.json(&desk.there, "remote list --json");
        assert_eq!(list["remotes"].as_array().unwrap().len(), 1, "{row}");
        let removed = if row == "folder" { fs::remove_dir(&file) } else { fs::remove_file(&file) };
        removed.unwrap();
    }
}

#[test]
fn a_checkout_is_a_project_that_pulls_starts_and_pushes() {
    let desk = Desk::new();
    let root = desk.here.parent().unwrap().to_owned();
    let id = desk.done(&desk.here, "snapshot ready");
    desk.done(&desk.here, "push ready");
    let words = format!("checkout {} ready fresh", desk.url);
    let made = desk.run(&root, &words);
    let fresh = root.join("fresh");
    assert_eq!((made.code, made.stdout.trim_end()), (Some(0), fresh.to_str().unwrap()), "{made:?}");
    for part in ["fetched 2 of 2 contents", "1 tree, ", "the remote as origin", "no .git"] {
        assert!(made.stderr.contains(part), "{part}: {made:?}");
    }
    assert_eq!(fs::read_to_string(fresh.join("a")).unwrap(), "alpha\n");
    desk.done(&fresh, "status");
    let path = desk.done(&fresh, "start --from origin/ready w");
    assert_eq!(fs::read_to_string(Path::new(&path).join("a")).unwrap(), "alpha\n");
    fs::write(fresh.join("a"), "edited\n").unwrap();
    let second = desk.done(&fresh, "snapshot ready");
    desk.done(&fresh, "push ready --limit-rate 1G");
    assert_eq!(desk.done(&desk.here, "pull ready --limit-rate 1G"), second);

    let there = desk.run(&root, &words);
    assert_eq!(there.code, Some(1), "{there:?}");
    assert!(there.stderr.contains("a folder that is empty"), "{there:?}");
    let json = format!("checkout --json --remote team -j 1 {} {id} other", desk.url);
    let document = desk.json(&root, &json);
    assert_eq!(document["path"], root.join("other").to_str().unwrap());
    assert_eq!((&document["remote"], &document["url"]), (&json!("team"), &json!(desk.url)));
    assert_eq!((&document["files"], &document["bytes"]), (&json!(2), &json!(11)));
    assert_eq!(document["pulled"]["snapshot"], id);
    assert_eq!(
        (&document["pulled"]["sequence"], &document["mentions"]),
        (&json!(null), &json!([]))
    );
    assert!(document["method"].is_string() && document["elapsed_seconds"].is_number());
    let url = &desk.url;
    for (words, kind, part) in [
        (format!("checkout {url} none x"), "snapshot_not_found", "'calve remote names'"),
        (format!("checkout {url}/none ready x"), "remote_not_found", "no folder /"),
        ("checkout ftp://x ready x".to_owned(), "invalid_name", "file:///FOLDER"),
        (format!("checkout {url} ready none/x"), "io", "none"),
        (format!("checkout --store s {url} ready x"), "store_exists", "neither --store nor"),
        (format!("checkout --remote a/b {url} ready x"), "invalid_name", "slash"),
        (
            format!("checkout --key {} {url} ready x", "1".repeat(64)),
            "untrusted",
            "'calve remote key'",
        ),
    ] {
        let run = desk.run(&root, &format!("{words} --json"));
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert_eq!(run.json()["error"]["kind"], kind, "{words}: {run:?}");
        assert!(run.stderr.contains(part), "{words}: {run:?}");
        assert!(fs::symlink_metadata(root.join("x")).is_err(), "{words}");
    }
    for words in ["checkout", &format!("checkout {url} ready x --limit-rate 0")] {
        assert_eq!(desk.run(&root, words).code, Some(2), "{words}");
    }
}

#[test]
fn a_remote_makes_its_own_folder_and_none_above() {
    let desk = Desk::new();
    let (one, two) = (format!("{}-new", desk.url), format!("{}-more/deep", desk.url));
    desk.done(&desk.here, &format!("remote init {one}/"));
    desk.done(&desk.here, &format!("remote add new {one}"));
    let run = desk.run(&desk.here, &format!("remote init {two}"));
    assert!(run.code == Some(1) && run.stderr.contains("mkdir -p"), "{run:?}");
    let above = two.strip_prefix("file://").unwrap().strip_suffix("/deep").unwrap();
    assert!(fs::metadata(above).is_err());
}

/// Each snapshot had the remote in it, and a restore of an older one took back what others pushed.
/// A restore of the project removed objects that were pushed to the remote since, and snapshots that
/// were taken in the store since.
#[test]
fn a_store_and_a_remote_in_a_project_that_was_made_around_them_stay_as_they_are() {
    let desk = Desk::new();
    let root = desk.here.parent().unwrap();
    plant(root, &[("data/x", "1"), ("r/f", "1")]);
    let (data, r) = (root.join("data"), root.join("r"));
    let url = format!("file://{}", data.join("trees").to_str().unwrap());
    desk.done(&r, &format!("remote init {url}"));
    desk.done(&r, "init --store ../data/s.calve");
    desk.done(&r, &format!("remote add team {url}"));
    desk.done(&r, "snapshot A");
    desk.done(&r, "push A");
    desk.done(&data, "init");
    let made = desk.run(&data, "snapshot D --json");
    assert_eq!(made.code, Some(3), "{made:?}");
    let skipped = |at: usize| made.json()["skipped"][at].clone();
    for (at, path) in ["s.calve", "trees"].into_iter().enumerate() {
        assert_eq!(skipped(at), json!({ "path": path, "reason": "store_or_remote" }), "{made:?}");
    }
    fs::write(r.join("f"), "2").unwrap();
    desk.done(&r, "snapshot B");
    desk.done(&r, "push B");
    fs::write(data.join("x"), "2").unwrap();
    desk.done(&data, "restore --force D");
    assert_eq!(fs::read_to_string(data.join("x")).unwrap(), "1");
    desk.done(&r, "show B");
    desk.done(&r, "store verify");
    desk.done(&r, "remote verify");
    assert!(desk.done(&r, "remote names").contains("B "));
    // Neither comes along.
    assert_eq!(desk.run(&data, "start w").code, Some(3));
    let of_worktree = fs::read_dir(root.join("data.worktrees/w")).unwrap();
    let mut names: Vec<_> = of_worktree.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".calve", "x"]);
}

#[test]
fn a_remote_is_in_no_project_and_in_no_worktree() {
    let desk = Desk::new();
    let worktree = desk.done(&desk.here, "start w");
    let inside = [desk.here.join("remote"), desk.there.join("own/remote"), worktree.into()];
    for folder in &inside {
        let run = desk.run(&desk.here, &format!("remote init file://{}", folder.display()));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(
            run.stderr.contains("inside a project") && run.stderr.contains("outside"),
            "{run:?}"
        );
    }
    assert!(fs::metadata(&inside[0]).is_err());
    // One that came in by other means.
    let there = desk.url.strip_prefix("file://").unwrap();
    fs::rename(there, desk.here.join("moved")).unwrap();
    let run = desk
        .run(&desk.here, &format!("remote add moved file://{}", desk.here.join("moved").display()));
    assert!(run.code == Some(1) && run.stderr.contains("inside a project"), "{run:?}");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_way_out() {
    let desk = Desk::new();
    let id = desk.done(&desk.here, "snapshot ready");
    let url = &desk.url;
    for (words, kind, cause, hint) in [
        ("pull none", "snapshot_not_found", "no such name", "'calve remote names'"),
        (&format!("pull {}", &id[..8]), "snapshot_not_found", "no such name", "must be whole"),
        ("pull ready --from other", "remote_not_found", "no remote by this name", "remote add"),
        ("start --from other/ready x", "remote_not_found", "no remote by this name", "remote add"),
        ("push none", "snapshot_not_found", "no snapshot", "'calve log'"),
        ("push team ready", "snapshot_not_found", "no snapshot", "push [SNAPSHOT] --to team"),
        ("push team/none", "snapshot_not_found", "no snapshot", "push none --to team"),
        ("push --as a/b", "invalid_name", "slash", "no slash"),
        (&format!("remote init {url}"), "remote_exists", "a remote is there", "remote add NAME"),
        (&format!("remote init {url}/none/it"), "io", "No such file", "mkdir -p /"),
        (&format!("remote add other {url}/none"), "remote_not_found", "no object", "no folder /"),
        ("remote add other file:///tmp", "remote_not_found", "no object 'format'", "remote init"),
        ("remote add other ftp://x", "invalid_name", "file:///FOLDER", "file:///srv/trees"),
        ("remote add other https://x/?y", "invalid_name", "https://", "file:///srv/trees"),
        ("remote add other ../far", "invalid_name", "file:///FOLDER", "folder is file:///"),
        ("remote remove other", "remote_not_found", "no remote by this name", "remote list"),
        ("remote log none", "snapshot_not_found", "no such name", "remote names"),
        ("remote log team/none", "snapshot_not_found", "no such name", "remote names"),
        ("remote log other/ready", "remote_not_found", "no remote by this name", "remote list"),
        ("pull other/ready", "remote_not_found", "no remote by this name", "remote list"),
    ] {
        let run = desk.run(&desk.here, &format!("{words} --json"));
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let error = &run.json()["error"];
        assert_eq!(error["kind"], kind, "{words}: {run:?}");
        assert!(run.stderr.contains(cause), "{words}: {run:?}");
        assert!(run.stderr.contains(hint), "{words}: {run:?}");
    }
    for (words, part) in [
        ("push ready --limit-rate 99999999999G".to_owned(), "more bytes a second than there are"),
        ("push ready --limit-rate G".to_owned(), "500k, 10M or 1G"),
        (format!("remote add other {url} --key {}", "0".repeat(64)), "a wrong digit"),
        (format!("remote add other {url} --key 00"), "64 hexadecimal digits"),
    ] {
        let run = desk.run(&desk.here, &words);
        assert!(run.code == Some(2) && run.stderr.contains(part), "{words}: {run:?}");
    }
    // It is the same place.
    desk.done(&desk.here, &format!("remote add team {url}//"));
    desk.done(&desk.here, &format!("remote add second {url}"));
    let two = desk.run(&desk.here, "push ready");
    assert!(two.code == Some(1) && two.stderr.contains("knows 2, and none is named"), "{two:?}");
    desk.done(&desk.here, "push --to second ready");
    let taken = desk.run(&desk.there, &format!("remote add team {url} --key {}", "5".repeat(64)));
    assert!([Some(1), Some(2)].contains(&taken.code), "{taken:?}");
    let none = calve(&desk.there, "push --as x one two");
    assert_eq!(none.code, Some(2), "{none:?}");
    done(&desk.there, "remote remove team");
    let none = calve(&desk.there, "pull ready");
    assert!(none.stderr.contains("the store knows none"), "{none:?}");
}
