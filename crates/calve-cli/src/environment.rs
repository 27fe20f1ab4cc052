//! What tells the programs of one worktree from those of another: variables for its commands.
//!
//! Each worktree has a slot, a small number that no other one of the store has. From it come the
//! port, and whatever else a project numbers: a database, a display.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use calve::Store;

use crate::settings::{PORT_BASE, PORT_STEP, Settings};

/// The port of the project itself, and how many ports each tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    base: u16,
    step: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { base: 3000, step: 10 }
    }
}

impl Ports {
    /// As the settings say.
    ///
    /// # Errors
    /// What is wrong with a setting.
    pub(crate) fn of(settings: &Settings) -> Result<Self, String> {
        let number = |value: &str| match value.trim().parse() {
            Ok(number @ 1_u16..) => Ok(number),
            _ => Err("not a number from 1 to 65535".to_owned()),
        };
        let default = Self::default();
        Ok(Self {
            base: settings.parsed(PORT_BASE, number)?.unwrap_or(default.base),
            step: settings.parsed(PORT_STEP, number)?.unwrap_or(default.step),
        })
    }

    /// The first port of a slot. `None`: all ports are before it.
    fn first_of(self, slot: u32) -> Option<u16> {
        let port = u32::from(self.step).checked_mul(slot)?.checked_add(self.base.into())?;
        let last = port.checked_add(u32::from(self.step) - 1)?;
        u16::try_from(last).ok().and_then(|_| u16::try_from(port).ok())
    }
}

/// The tree whose programs get the variables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NumberedTree<'a> {
    /// `None`: the project itself.
    pub(crate) name: Option<&'a str>,
    pub(crate) path: &'a Path,
    /// `None`: the store does not know the tree, because it cannot be written to.
    pub(crate) slot: Option<u32>,
}

/// What a shell may still have of another tree.
pub(crate) const NOT_ALWAYS: [&str; 2] = ["CALVE_SLOT", "CALVE_PORT"];

/// What all trees of a project have in common.
#[derive(Debug)]
pub(crate) struct Environment {
    project: PathBuf,
    /// The roots of the project and of all its worktrees.
    roots: Vec<PathBuf>,
    /// `None`: they are not known.
    ports: Option<Ports>,
}

impl Environment {
    /// # Errors
    /// The store could not be read.
    pub(crate) fn of(store: &Store, ports: Option<Ports>) -> Result<Self, calve::Error> {
        let project = store.project()?;
        let mut roots = vec![project.clone()];
        roots.extend(store.worktrees()?.iter().map(|worktree| worktree.path().to_owned()));
        roots.sort();
        Ok(Self { project, roots, ports })
    }

    /// The same for programs that see the project at another path.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_project_at(self, project: PathBuf) -> Self {
        Self { project, ..self }
    }

    /// Why there is no port for a tree that has a slot, in words for the user.
    pub(crate) fn why_no_port(&self, slot: Option<u32>) -> Option<String> {
        let (ports, slot) = (self.ports?, slot?);
        let Ports { base, step } = ports;
        ports.first_of(slot).is_none().then(|| {
            format!(
                "no CALVE_PORT: for slot {slot}, the {step} ports from {base} + {step} x {slot} on are not all below \
                 65536: {PORT_BASE} and {PORT_STEP} say where they begin and how many each tree has"
            )
        })
    }

    /// The variables for programs in a tree, by name.
    pub(crate) fn variables(&self, tree: NumberedTree<'_>) -> Vec<(&'static str, OsString)> {
        let path = OsString::from(tree.path);
        let mut found = vec![
            ("CALVE_PROJECT", self.project.clone().into_os_string()),
            ("CALVE_WORKTREE", path.clone()),
        ];
        // Empty for the project: a shell may still have the name of a worktree.
        found.push(("CALVE_NAME", tree.name.unwrap_or_default().into()));
        if let Some(slot) = tree.slot {
            found.push(("CALVE_SLOT", slot.to_string().into()));
            let port = self.ports.and_then(|ports| ports.first_of(slot));
            found.extend(port.map(|port| ("CALVE_PORT", port.to_string().into())));
        }
        found.push(("COMPOSE_PROJECT_NAME", self.compose_name(tree).into()));
        found.push(("CCACHE_BASEDIR", path));
        // The server of sccache reads this once, when it starts, so it has the roots of all trees.
        // Nothing quotes the colon between two of them.
        let own = (!self.roots.iter().any(|root| root == tree.path)).then_some(tree.path);
        let roots = self.roots.iter().map(PathBuf::as_path).chain(own);
        let roots = roots.map(|root| root.as_os_str().as_bytes());
        let roots: Vec<&[u8]> = roots.filter(|root| !root.contains(&b':')).collect();
        found.push(("SCCACHE_BASEDIRS", OsString::from_vec(roots.join(&b':'))));
        found.sort_by_key(|(name, _)| *name);
        found
    }

    /// A name that no other tree of this project has, as docker compose takes it: small letters,
    /// digits, dashes and underscores, the first one a letter or a digit. If that changes the
    /// worktree's name, the slot tells it from others.
    fn compose_name(&self, tree: NumberedTree<'_>) -> String {
        let project = self.project.file_name().unwrap_or(OsStr::new("project"));
        let project = in_compose(&project.to_string_lossy());
        let start = project.trim_start_matches(['-', '_']);
        let start = if start.is_empty() { "project" } else { start };
        let Some(name) = tree.name else { return start.to_owned() };
        let fits = in_compose(name);
        match (fits == name && !name.contains("__"), tree.slot) {
            (false, Some(slot)) => format!("{start}-{fits}__{slot}"),
            _ => format!("{start}-{fits}"),
        }
    }
}

fn in_compose(name: &str) -> String {
    let fits = |char: char| match char {
        'a'..='z' | '0'..='9' | '-' | '_' => char,
        'A'..='Z' => char.to_ascii_lowercase(),
        _ => '-',
    };
    name.chars().map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_its_ports_as_long_as_there_are_any() {
        let ports = |base, step| Ports { base, step };
        for (ports, slot, expected) in [
            (Ports::default(), 0, Some(3000)),
            (Ports::default(), 1, Some(3010)),
            (Ports::default(), 6252, Some(65_520)),
            // The last of its ports would be 65,539.
            (Ports::default(), 6253, None),
            (ports(65_535, 1), 0, Some(65_535)),
            (ports(65_535, 1), 1, None),
            (ports(65_530, 10), 0, None),
            (ports(8000, 1), 42, Some(8042)),
            (ports(1, u16::MAX), 1, None),
            (Ports::default(), u32::MAX, None),
        ] {
            assert_eq!(ports.first_of(slot), expected, "{ports:?} {slot}");
            let (project, roots) = (PathBuf::new(), Vec::new());
            let environment = Environment { project, roots, ports: Some(ports) };
            let why = environment.why_no_port(Some(slot));
            assert_eq!(why.is_some(), expected.is_none(), "{ports:?} {slot}");
        }
    }

    #[test]
    fn the_settings_say_which_ports_or_what_is_wrong_with_them() {
        for (text, expected) in [
            ("", Ok(Ports::default())),
            ("calve.portbase\n8000\0calve.portstep\n1\0", Ok(Ports { base: 8000, step: 1 })),
            ("calve.portbase\n0\0", Err("git's setting calve.portBase is '0': not a number")),
            ("calve.portstep\nten\0", Err("git's setting calve.portStep is 'ten': not a number")),
            ("calve.portbase\n65536\0", Err("git's setting calve.portBase is '65536': not")),
        ] {
            match (Ports::of(&Settings::read(text)), expected) {
                (Ok(ports), Ok(expected)) => assert_eq!(ports, expected, "{text:?}"),
                (Err(why), Err(start)) => assert!(why.starts_with(start), "{text:?}: {why}"),
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn each_tree_has_a_name_of_its_own_for_docker_compose() {
        let of = |project: &str, name, slot| {
            let environment = Environment {
                project: Path::new("/src").join(project),
                roots: Vec::new(),
                ports: None,
            };
            environment.compose_name(NumberedTree { name, path: Path::new("/w"), slot })
        };
        for (project, name, slot, expected) in [
            ("app", None, Some(0), "app"),
            ("app", Some("fix-1"), Some(1), "app-fix-1"),
            ("My App", Some("fix_1"), Some(1), "my-app-fix_1"),
            ("app", Some("Fix-1"), Some(2), "app-fix-1__2"),
            ("app", Some("fix.1"), Some(3), "app-fix-1__3"),
            ("app", Some("fix-1__3"), Some(4), "app-fix-1__3__4"),
            ("app", Some("größe"), Some(5), "app-gr--e__5"),
            ("_app", Some("a"), Some(1), "app-a"),
            ("---", None, Some(0), "project"),
            ("app", Some("Fix"), None, "app-fix"),
        ] {
            assert_eq!(of(project, name, slot), expected, "{project} {name:?}");
        }
    }

    #[test]
    fn the_variables_say_which_tree_it_is() {
        let environment = Environment {
            project: "/src/app".into(),
            roots: ["/src/app", "/src/app.worktrees/a", "/src/app.worktrees/b:c"]
                .map(PathBuf::from)
                .into(),
            ports: Some(Ports::default()),
        };
        let path = Path::new("/src/app.worktrees/a");
        let tree = NumberedTree { name: Some("a"), path, slot: Some(1) };
        let text = |tree| {
            let line = |(name, value): (&str, OsString)| format!("{name}={}\n", value.display());
            environment.variables(tree).into_iter().map(line).collect::<String>()
        };
        let expected = "CALVE_NAME=a\nCALVE_PORT=3010\nCALVE_PROJECT=/src/app\nCALVE_SLOT=1\n\
            CALVE_WORKTREE=/src/app.worktrees/a\nCCACHE_BASEDIR=/src/app.worktrees/a\n\
            COMPOSE_PROJECT_NAME=app-a\nSCCACHE_BASEDIRS=/src/app:/src/app.worktrees/a\n";
        assert_eq!(text(tree), expected);
        let unknown = text(NumberedTree { slot: None, ..tree });
        assert!(!unknown.contains("SLOT") && !unknown.contains("PORT"), "{unknown}");
        assert!(text(NumberedTree { name: None, ..tree }).contains("CALVE_NAME=\n"));
    }
}
