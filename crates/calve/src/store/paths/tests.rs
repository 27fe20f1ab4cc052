use proptest::prelude::*;

use super::record::Digest;
use super::*;

fn relocation(from: &str, to: &str) -> Relocation {
    Relocation::new(from.into(), to.into())
}

const LONG: &str = "/w/a-folder-with-a-name-that-is-very-very-long/and-another-one-that-is-as-long-as-the-first/and-a-third/and-the-last-one";

/// A row: what it shows, the kind, both roots, the project's text and the worktree's. `None`: the
/// file stays as it is.
type Row = (&'static str, PathKind, &'static str, &'static str, &'static str, Option<String>);

#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn rows() -> Vec<Row> {
    use PathKind::*;
    let some = |text: &str| Some(text.to_owned());
    let exec = |path: &str, body: &str| {
        Some(format!("#!/bin/sh\n'''exec' \"{path}\" \"$0\" \"$@\"\n' '''\n{body}"))
    };
    vec![
        (
            "a script",
            Script,
            "/a/app",
            "/w/x",
            "#!/a/app/.venv/bin/python\nx",
            some("#!/w/x/.venv/bin/python\nx"),
        ),
        (
            "with arguments",
            Script,
            "/a/app",
            "/w/x",
            "#!/a/app/.venv/bin/python -I\nx",
            some("#!/w/x/.venv/bin/python -I\nx"),
        ),
        (
            "with CRLF",
            Script,
            "/a/app",
            "/w/x",
            "#!/a/app/.venv/bin/python\r\nx",
            some("#!/w/x/.venv/bin/python\r\nx"),
        ),
        ("without an end", Script, "/a/app", "/w/x", "#!/a/app/bin/python", None),
        (
            "only the first line counts",
            Script,
            "/a/app",
            "/w/x",
            "#!/bin/sh\necho /a/app/x\n",
            None,
        ),
        (
            "a script edited by hand keeps its body",
            Script,
            "/a/app",
            "/w/x",
            "#!/a/app/bin/python\n# /a/app/x and /w/x/y\n",
            some("#!/w/x/bin/python\n# /a/app/x and /w/x/y\n"),
        ),
        (
            "a root that begins like another",
            Script,
            "/a/app",
            "/w/x",
            "#!/a/app2/bin/python\n",
            None,
        ),
        ("a root that ends like another", Config, "/a/app", "/w/x", "home = /b/a/app/bin\n", None),
        (
            "a space in the new path",
            Script,
            "/a/app",
            "/w/my app",
            "#!/a/app/bin/python\nx",
            exec("/w/my app/bin/python", "x"),
        ),
        (
            "a path that is too long for a first line",
            Script,
            "/a/app",
            LONG,
            "#!/a/app/bin/python\nx",
            exec(&format!("{LONG}/bin/python"), "x"),
        ),
        (
            "a path that the project could not have either",
            Script,
            "/a/app",
            "/w/a\"b",
            "#!/a/app/bin/python\nx",
            None,
        ),
        (
            "a worktree inside the project",
            Script,
            "/a/app",
            "/a/app/.calve/worktrees/x",
            "#!/a/app/bin/python\n",
            some("#!/a/app/.calve/worktrees/x/bin/python\n"),
        ),
        (
            "the form of uv",
            Script,
            "/a/app",
            "/w/x",
            "#!/bin/sh\n'''exec' '/a/app/bin/python' \"$0\" \"$@\"\n' '''\nx",
            some("#!/bin/sh\n'''exec' '/w/x/bin/python' \"$0\" \"$@\"\n' '''\nx"),
        ),
        (
            "an activation",
            Activation,
            "/a/app",
            "/w/x",
            "VIRTUAL_ENV='/a/app/.venv'\nPATH=/a/app/.venv/bin:$PATH\n",
            some("VIRTUAL_ENV='/w/x/.venv'\nPATH=/w/x/.venv/bin:$PATH\n"),
        ),
        (
            "both paths in one file",
            Activation,
            "/a/app",
            "/w/x",
            "A='/a/app/x'\nB='/w/x/y'\n",
            None,
        ),
        ("quotes in the new path", Activation, "/a/app", "/w/it's", "A='/a/app/x'\n", None),
        (
            "a config",
            Config,
            "/a/app",
            "/w/x",
            "command = /usr/bin/python3 -m venv /a/app/.venv\n",
            some("command = /usr/bin/python3 -m venv /w/x/.venv\n"),
        ),
        (
            "a path file",
            PathFile,
            "/a/app",
            "/w/x",
            "/a/app/src\n/a/app\n/a/app2\n",
            some("/w/x/src\n/w/x\n/a/app2\n"),
        ),
        ("a path file with CRLF", PathFile, "/a/app", "/w/x", "/a/app\r\n", some("/w/x\r\n")),
        (
            "a folder with a space after the root",
            PathFile,
            "/a/app",
            "/w/x",
            "/a/app dir/src\n",
            None,
        ),
        ("another case of letters", PathFile, "/a/app", "/w/x", "/A/App/src\n", None),
        (
            "a finder",
            EditableFinder,
            "/a/app",
            "/w/x",
            "MAPPING = {'app': '/a/app/src/app'}\n",
            some("MAPPING = {'app': '/w/x/src/app'}\n"),
        ),
        (
            "an URL",
            DirectUrl,
            "/a/app",
            "/w/x",
            "{\"url\": \"file:///a/app\"}",
            some("{\"url\": \"file:///w/x\"}"),
        ),
        (
            "an URL with special characters",
            DirectUrl,
            "/a/a b",
            "/w/50%",
            "{\"url\": \"file:///a/a%20b/p\"}",
            some("{\"url\": \"file:///w/50%25/p\"}"),
        ),
        ("a link", Link, "/a/app", "/w/x", "/a/app/packages/p", some("/w/x/packages/p")),
        ("a link to the root", Link, "/a/app", "/w/x", "/a/app", some("/w/x")),
        ("a link to another root", Link, "/a/app", "/w/x", "/a/app2/p", None),
        ("a binary file", Config, "/a/app", "/w/x", "\0/a/app/x\n", None),
        ("nothing of it", Config, "/a/app", "/w/x", "home = /usr/bin\n", None),
    ]
}

use PathKind::EnvironmentConfig as Config;

#[test]
fn each_kind_is_translated_there_and_back_or_not_at_all() {
    for (what, kind, from, to, text, expected) in rows() {
        let roots = relocation(from, to);
        let local = roots.localize(kind, text.as_bytes());
        let local = local.map(|local| String::from_utf8(local).unwrap());
        let without_end = what == "without an end";
        if !without_end {
            assert_eq!(local, expected, "{what}");
        }
        if let Some(local) = local {
            assert_eq!(roots.canonical(kind, local.as_bytes()).unwrap(), text.as_bytes(), "{what}");
        }
    }
}

#[test]
fn a_root_that_is_no_text_is_translated_where_bytes_are_kept() {
    let roots = Relocation::new(b"/a/\xff".to_vec(), b"/w/\xfe".to_vec());
    for (kind, text, expected) in [
        (PathKind::Script, &b"#!/a/\xff/bin/python\n"[..], Some(&b"#!/w/\xfe/bin/python\n"[..])),
        (PathKind::PathFile, b"/a/\xff/src\n", Some(b"/w/\xfe/src\n")),
        (PathKind::Link, b"/a/\xff/src", Some(b"/w/\xfe/src")),
        (PathKind::DirectUrl, b"\"file:///a/%FF\"", Some(b"\"file:///w/%FE\"")),
        (PathKind::EditableFinder, b"'/a/\xff/src'", None),
    ] {
        assert_eq!(roots.localize(kind, text).as_deref(), expected, "{kind:?}");
    }
}

#[test]
fn the_kind_of_a_file_is_known_by_its_path() {
    for (path, expected) in [
        (".venv/pyvenv.cfg", Some((PathKind::EnvironmentConfig, ".venv"))),
        ("pyvenv.cfg", Some((PathKind::EnvironmentConfig, ""))),
        (".venv/bin/activate.fish", Some((PathKind::Activation, ".venv"))),
        (".venv/bin/pytest", Some((PathKind::Script, ".venv"))),
        ("a/env/lib/python3.12/site-packages/x.pth", Some((PathKind::PathFile, "a/env"))),
        ("env/lib64/pypy3.10/site-packages/x.egg-link", Some((PathKind::PathFile, "env"))),
        (
            ".venv/lib/python3.12/site-packages/__editable___x_finder.py",
            Some((PathKind::EditableFinder, ".venv")),
        ),
        (
            ".venv/lib/python3.12/site-packages/x-1.dist-info/direct_url.json",
            Some((PathKind::DirectUrl, ".venv")),
        ),
        (
            ".venv/lib/python3.12/site-packages/x-1.dist-info/RECORD",
            Some((PathKind::Record, ".venv")),
        ),
        (".venv/lib/python3.12/site-packages/x/__editable__.py", None),
        ("site-packages/x.pth", None),
        ("src/main.py", None),
        ("", None),
    ] {
        let found = in_environment(Path::new(path));
        assert_eq!(found, expected.map(|(kind, folder)| (kind, Path::new(folder))), "{path}");
    }
}

#[test]
fn a_record_has_the_digests_of_the_files_that_are_there() {
    let path = Path::new(".venv/lib/python3.12/site-packages/app-1.dist-info/RECORD");
    let (was, is) = (Digest::of(b"hello"), Digest::of(b"longer hello"));
    let line = "sha256=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ,5";
    let now = "sha256=JlzsofjL1ow5iqUURyACUvMqdfeZO_dndWs6YYFcf-0,12";
    let _ = now;
    let text = format!(
        "../../../bin/app,{line}\r\n\"_app.pth\",{line}\napp/__init__.py,{line}\n../../../bin/none,sha256=AAAA,5\napp-1.dist-info/RECORD,,\n"
    );
    let change = |file: &Path| {
        assert!(file.starts_with(".venv"), "{}", file.display());
        Some((was.clone(), is.clone()))
    };
    let made = record::translate(path, text.as_bytes(), change).unwrap();
    let made_text = String::from_utf8(made.clone()).unwrap();
    assert_eq!(made_text.matches(",12").count(), 2, "{made_text}");
    assert_eq!(made_text.lines().count(), 5);
    assert!(made_text.contains("app/__init__.py,sha256=LPJNul"), "{made_text}");
    assert!(made_text.contains("none,sha256=AAAA,5"), "{made_text}");
    let back = |_: &Path| Some((is.clone(), was.clone()));
    assert_eq!(record::translate(path, &made, back).unwrap(), text.as_bytes());
    assert_eq!(record::translate(path, text.as_bytes(), |_| None), None);
}

#[test]
fn a_root_is_found_across_the_pieces_of_a_file() {
    let root = b"/a/app".to_vec();
    for (pieces, expected) in [
        (vec![&b"x /a/app/x"[..]], true),
        (vec![b"x /a", b"/app"], true),
        (vec![b"x /", b"a", b"/app"], false),
        (vec![b"nothing", b"at all"], false),
        (vec![b"\0 /a/app", b"/a/app"], false),
        (vec![b""], false),
    ] {
        let mut roots = Roots::new(std::slice::from_ref(&root));
        let (mut at, mut found) = (0, false);
        for piece in &pieces {
            found |= roots.found_in(at, piece);
            at += piece.len() as u64;
        }
        assert_eq!(found, expected, "{pieces:?}");
    }
}

#[test]
fn a_root_with_several_spellings_has_as_many_in_the_worktree() {
    use PathKind::*;
    let pairs = |pairs: &[(&str, &str)]| {
        Relocation::of(pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()).unwrap()
    };
    let roots = pairs(&[("/d/app", "/d/w"), ("/h/app", "/h/w"), ("/app", "/d/w/.")]);
    for (kind, text, expected) in [
        (PathFile, "/d/app/a\n/h/app/b\n/app\n", Some("/d/w/a\n/h/w/b\n/d/w/.\n")),
        (Script, "#!/app/bin/python\n", Some("#!/d/w/./bin/python\n")),
        (Script, "#!/h/app/bin/python -I\n", Some("#!/h/w/bin/python -I\n")),
        (Link, "/app", Some("/d/w/.")),
        (Link, "/h/app/src", Some("/h/w/src")),
        (Activation, "A='/d/app/x:/app/y'\n", Some("A='/d/w/x:/d/w/./y'\n")),
        (DirectUrl, "\"file:///h/app\"", Some("\"file:///h/w\"")),
        // A root of the worktree is there already.
        (Activation, "A='/app/x:/h/w/y'\n", None),
        (Link, "/d/w/./x", None),
    ] {
        let local = roots.localize(kind, text.as_bytes());
        assert_eq!(local.as_deref(), expected.map(str::as_bytes), "{text}");
        if let Some(local) = local {
            assert_eq!(roots.canonical(kind, &local).as_deref(), Some(text.as_bytes()));
        }
    }
    // Two paths of the worktree may mean one of the project.
    let roots = pairs(&[("/d/app", "/d/w"), ("/d/app", "/x/w")]);
    assert_eq!(roots.canonical(Link, b"/x/w/src").as_deref(), Some(&b"/d/app/src"[..]));
    assert_eq!(roots.localize(Link, b"/d/app/src").as_deref(), Some(&b"/d/w/src"[..]));
}

#[test]
fn a_link_that_would_name_itself_stays_as_it_is() {
    let roots = relocation("/a/app", "/w/x");
    for (path, in_snapshot, expected) in [
        ("data", "/a/app/data", "/a/app/data"),
        ("data", "/a/app//./data/", "/a/app//./data/"),
        ("data", "/w/x/data", "/w/x/data"),
        ("data", "/a/app/data/x", "/w/x/data/x"),
        ("deep/data", "/a/app/data", "/w/x/data"),
    ] {
        let path = Path::new(path);
        let local = roots.localize_target(path, in_snapshot.as_bytes());
        let local = local.unwrap_or_else(|| in_snapshot.into());
        assert_eq!(local, expected.as_bytes(), "{in_snapshot}");
        let back = roots.canonical_target(path, &local).unwrap_or(local);
        assert_eq!(back, in_snapshot.as_bytes(), "{in_snapshot}");
    }
}

proptest! {
    #[test]
    fn any_text_is_translated_there_and_back_or_not_at_all(
        parts in proptest::collection::vec(prop_oneof![
            Just("/a/app"), Just("/b/app"), Just("/app"), Just("/w/x"), Just("/a/app/.calve/w"), Just("/."), Just("/"), Just("\n"), Just("'"),
            Just("\""), Just("#!"), Just("#!/bin/sh\n"), Just("'''exec' "), Just("\" \"$0\" \"$@\"\n' '''\n"),
            Just(" "), Just("bin/python"), Just("x"), Just("2"), Just("file://"), Just("%20"), Just("\r\n"),
        ], 0..12),
        kind in proptest::sample::select(PathKind::ALL),
        to in proptest::sample::select(&["/w/x", "/a/app/.calve/w", "/w/a b", LONG, "/a/app2", "/a"][..]),
        other in proptest::sample::select(&[None, Some("/b/app"), Some("/app"), Some("/a"), Some("/w")][..]),
    ) {
        let (mut roots, text) = (relocation("/a/app", to), parts.concat());
        if let Some(other) = other.filter(|other| *other != to) {
            roots.add(&[other.into()]);
        }
        if let Some(local) = roots.localize(kind, text.as_bytes()) {
            let back = roots.canonical(kind, &local);
            prop_assert_eq!(back.as_deref(), Some(text.as_bytes()));
            prop_assert_eq!(roots.localize(kind, &local), None);
        }
    }
}

/// The story: a remote's list of 180 kB had 20,000 roots, and a checkout of one file took hours,
/// since the time grows as the cube of their number.
#[test]
fn a_list_with_more_or_other_roots_than_calve_writes_counts_as_damaged() {
    use super::found::{Found, PathMention};
    use super::secrets::{Secret, SecretKind};
    use super::spelling::SPELLINGS_MOST;
    let many = |count: usize| (0..count).map(|at| format!("/r{at}").into_bytes()).collect();
    let list = |roots: Vec<Vec<u8>>| Found { roots, mentions: Vec::new(), secrets: Vec::new() };
    for (row, roots, is_read) in [
        ("one", many(1), true),
        ("as many as calve writes", many(SPELLINGS_MOST), true),
        ("a long one", vec![[b"/".as_slice(), &[b'a'; 4095]].concat()], true),
        ("one that is too long", vec![[b"/".as_slice(), &[b'a'; 4096]].concat()], false),
        ("one that is relative", vec![b"r".to_vec()], false),
    ] {
        let list = list(roots);
        let read = Found::decode(&list.encode());
        assert_eq!(read, is_read.then_some(list), "{row}");
    }
    // What calve writes can be read, whatever it knows.
    let most = Found::decode(&list(many(SPELLINGS_MOST + 1)).encode()).unwrap();
    assert_eq!(most.roots.len(), SPELLINGS_MOST);
    let secret = |path: &str, kind| Secret { path: path.into(), kind };
    let mut secrets = list(many(1));
    secrets.mentions.push(PathMention::new("a/.env".into(), PathKind::ShellEnvironment));
    secrets.secrets.push(secret("a/.env", SecretKind::Settings));
    secrets.secrets.push(secret("key.pem", SecretKind::PrivateKey));
    assert_eq!(Found::decode(&secrets.encode()).as_ref(), Some(&secrets));
    secrets.secrets.push(secret("../key.pem", SecretKind::PrivateKey));
    assert_eq!(Found::decode(&secrets.encode()), None);
    // Another program wrote this one.
    let mut text = b"calve found 1\0".to_vec();
    (0..=SPELLINGS_MOST).for_each(|at| text.extend(format!("/r{at}\0").bytes()));
    text.push(0);
    text.extend(blake3::hash(&text.clone()).as_bytes());
    assert_eq!(Found::decode(&text), None);
}
