//! The warnings about builds and environments that came along and still are the project's: a build
//! or a test there takes the project's sources, and is green for the wrong code. Each warning says
//! what to do in the worktree, as a command.

use std::path::{Path, PathBuf};

use calve::{PathKind, PathMeaning, PathMention};

use crate::text::{counted, shell_word, shown};

/// Whether files like this one have a warning here.
pub(super) fn is_said(mention: &PathMention) -> bool {
    mention.meaning() == PathMeaning::FalseGreen
        && (!mention.tool().is_empty() || mention.kind == PathKind::LinkBack)
}

/// One line for each tool.
pub(super) fn lines(mentions: &[PathMention], project: &Path) -> Vec<String> {
    let said: Vec<&PathMention> = mentions.iter().filter(|it| is_said(it)).collect();
    let heads = heads(mentions);
    let mut lines = Vec::new();
    let mut tools: Vec<&str> = Vec::new();
    for mention in &said {
        let tool = mention.tool();
        if tools.contains(&tool) {
            continue;
        }
        tools.push(tool);
        let places: Vec<&Path> =
            heads.iter().filter(|(head, _)| head.tool() == tool).map(|(_, place)| *place).collect();
        if let Some(first) = places.first() {
            lines.push(line(tool, first, places.len() - 1, project));
            continue;
        }
        // Files in a folder that has a line already need none.
        let is_alone = |it: &&&PathMention| {
            it.tool() == tool && !heads.iter().any(|(_, place)| it.path.starts_with(place))
        };
        let alone: Vec<&Path> = said.iter().filter(is_alone).map(|it| it.path.as_path()).collect();
        if let Some(first) = alone.first() {
            lines.push(line(tool, first, alone.len() - 1, project));
        }
    }
    lines
}

/// Whether a file is part of a build folder or an environment that has a line here.
pub(super) fn covers(mentions: &[PathMention]) -> impl Fn(&PathMention) -> bool {
    let heads = heads(mentions);
    move |mention| {
        let is_part = matches!(mention.kind, PathKind::Build | PathKind::Conda);
        is_part && heads.iter().any(|(_, place)| mention.path.starts_with(place))
    }
}

/// The files that speak for a folder, with it.
fn heads(mentions: &[PathMention]) -> Vec<(&PathMention, &Path)> {
    let said = mentions.iter().filter(|it| is_said(it));
    said.filter_map(|it| Some((it, head(it)?))).collect()
}

/// The folder for which a file speaks.
fn head(mention: &PathMention) -> Option<&Path> {
    let name = mention.path.file_name()?.to_str()?;
    let folder = mention.path.parent()?;
    match (mention.tool(), name) {
        ("cmake", "CMakeCache.txt") | ("configure", _) | ("waf", _) => Some(folder),
        ("meson", "meson-info.json") | ("conda" | "pixi", "history") => folder.parent(),
        _ => None,
    }
}

/// The warning for the first of some folders or files.
fn line(tool: &str, place: &Path, others: usize, project: &Path) -> String {
    let of_folders = matches!(tool, "cmake" | "meson" | "configure" | "waf" | "conda" | "pixi");
    let what = match (of_folders, place.as_os_str().is_empty()) {
        (true, true) => "this folder".to_owned(),
        (true, false) => format!("{}/", shown(place)),
        (false, _) => shown(place),
    };
    let (subject, is) = match (others, of_folders) {
        (0, _) => (what, "is"),
        (n, true) => (format!("{what} and {}", counted(n as u64, "other folder")), "are"),
        (n, false) => (format!("{what} and {}", counted(n as u64, "other file")), "are"),
    };
    let one = others == 0;
    let (s, it) = if one { ("s", "it") } else { ("", "them") };
    let word = shell_word(place);
    let source = || source_of(place, project, tool);
    match tool {
        "cmake" => {
            let again = cmake_again(place, source_of_cmake(place, project).or_else(source));
            let folder = if one { "CMake folder" } else { "CMake folders" };
            format!(
                "{subject} {is} the project's {folder} (CMakeCache.txt): a build there compiles and tests the project's sources, not \
                 the worktree's. Configure again in the worktree: '{again}'"
            )
        }
        "meson" => {
            let source = source().map(|it| format!(" {}", shell_word(&it))).unwrap_or_default();
            let folder = if one { "Meson folder" } else { "Meson folders" };
            format!(
                "{subject} {is} the project's {folder} (meson-info): a build there compiles and tests the project's sources, not \
                 the worktree's. Configure again in the worktree: 'rm -r {word} && meson setup {word}{source}'"
            )
        }
        "configure" => format!(
            "{subject} {is} configured for the project (config.status): 'make' may compile and test the project's sources. \
             Configure again in the worktree: '{}'",
            match place.components().count() {
                0 => "rm config.status && ./configure".to_owned(),
                depth => {
                    let above = "../".repeat(depth);
                    format!("rm {word}/config.status && (cd {word} && {above}configure)")
                }
            }
        ),
        "waf" => format!(
            "{subject} {is} configured for the project (.lock-waf): './waf' builds there, not in the worktree. Configure again in \
             the worktree: 'rm {}.lock-waf* && ./waf configure'",
            if place.as_os_str().is_empty() { String::new() } else { format!("{word}/") }
        ),
        "pixi" => format!(
            "{subject} {is} the project's pixi environment (conda-meta): programs in it start the project's Python, which imports \
             the project's code. Make it again in the worktree: 'rm -r .pixi && pixi install'"
        ),
        "conda" => format!(
            "{subject} {is} the project's conda environment (conda-meta): programs in it start the project's Python, which imports \
             the project's code. Make it again in the worktree: 'rm -r {word} && conda create --prefix ./{word} \
             --clone {}'",
            shell_word(&project.join(place))
        ),
        "pdm" => format!(
            "{subject} names the project's Python, which pdm takes in the worktree. In the worktree: 'rm {word} && pdm \
             install'"
        ),
        "bazel" => format!(
            "{subject} lead{s} to what bazel built of the project's sources: programs there are the project's until \
             'bazel build' in the worktree makes the links anew; 'rm {word}' removes the link"
        ),
        "" => format!(
            "{subject} lead{s} out of the project and back: what runs through a link of that kind in a worktree is the \
             project's. A relative link that stays inside the project ('ln -sr') does not"
        ),
        tool => format!(
            "{subject} name{s} the project's folder: {tool} there builds the project's sources. Let the program that \
             wrote {it} write {it} again in the worktree"
        ),
    }
}

/// The command that configures a build folder of CMake anew, for sources in `source` or in the
/// project's root. A folder that holds its sources stays.
fn cmake_again(place: &Path, source: Option<PathBuf>) -> String {
    let word = shell_word(place);
    match source {
        None if place.as_os_str().is_empty() => {
            "rm -rf CMakeCache.txt CMakeFiles && cmake .".to_owned()
        }
        None => format!("rm -r {word} && cmake -B {word}"),
        Some(source) if source.starts_with(place) => {
            let of = |name: &str| shell_word(&place.join(name));
            let (cache, files) = (of("CMakeCache.txt"), of("CMakeFiles"));
            let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
            let (source, place) = (shell_word(&source), shell_word(place));
            format!("rm -rf {cache} {files} && cmake -S {source} -B {place}")
        }
        Some(source) => format!("rm -r {word} && cmake -S {} -B {word}", shell_word(&source)),
    }
}

/// The folder of the sources that CMake noted in a build folder, if it is in the project and not its
/// root.
fn source_of_cmake(folder: &Path, project: &Path) -> Option<PathBuf> {
    let cache = std::fs::read(project.join(folder).join("CMakeCache.txt")).ok()?;
    let cache = String::from_utf8_lossy(&cache).into_owned();
    let home =
        cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))?;
    let home = std::fs::canonicalize(home.trim_end()).ok()?;
    let project = std::fs::canonicalize(project).ok()?;
    let source = home.strip_prefix(project).ok()?;
    (!source.as_os_str().is_empty()).then(|| source.to_owned())
}

/// The folder of the sources that a build folder is for, if that is not the project's root: the
/// nearest one above that has the tool's description.
fn source_of(folder: &Path, project: &Path, tool: &str) -> Option<PathBuf> {
    let description = if tool == "meson" { "meson.build" } else { "CMakeLists.txt" };
    let mut above = folder.ancestors().skip(1);
    let source = above.find(|above| project.join(above).join(description).is_file())?;
    (!source.as_os_str().is_empty()).then(|| source.to_owned())
}
