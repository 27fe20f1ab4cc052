//! `calve tidy --timer`: what lets the machine tidy by itself. It is printed, and written only with
//! `--write`.

use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::shell_word;

/// The files of a timer, and the command that begins it.
#[derive(Debug, PartialEq, Eq)]
struct Timer {
    files: Vec<(PathBuf, String)>,
    command: String,
}

pub(super) fn tell(project: &Path, writes: bool, output: Output) -> Result<Exit, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("find the program", Vec::new(), &error))?;
    if !Path::new("/run/systemd/system").is_dir() {
        let line = format!("{}\n", cron_line(&program, project));
        output.results(line.as_bytes())?;
        output.summary("this machine has no systemd: 'crontab -e' takes this line");
        return Ok(Exit::Done);
    }
    let timer = systemd(&program, project, &units_folder());
    for (path, text) in &timer.files {
        if writes {
            let folder = path.parent().unwrap_or(path);
            let write =
                || std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
            write().map_err(|error| Failure::writing("write", path, &error))?;
            output.results(&output.path_lines([path.as_path()]))?;
        } else {
            output.results(format!("# {}\n{text}\n", path.display()).as_bytes())?;
        }
    }
    let written =
        if writes { "" } else { "'calve tidy --timer --write' writes these files; then: " };
    output.summary(format_args!("{written}{}", timer.command));
    Ok(Exit::Done)
}

fn units_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_default().join(".config");
    variable("XDG_CONFIG_HOME").unwrap_or_else(home).join("systemd/user")
}

/// One timer for each project: its path is in the name, as systemd-escape(1) writes it.
fn systemd(program: &Path, project: &Path, folder: &Path) -> Timer {
    let name = format!("calve-tidy-{}", escaped(project));
    let service = format!(
        "[Unit]\nDescription=calve tidy in {}\n\n[Service]\nType=oneshot\nWorkingDirectory={}\nExecStart={} tidy --quiet\nNice=19\nIOSchedulingClass=idle\n",
        specifiers(&project.to_string_lossy()),
        specifiers(&project.to_string_lossy()),
        in_unit(&program.to_string_lossy()),
    );
    let timer = "[Unit]\nDescription=calve tidy, each hour\n\n[Timer]\nOnCalendar=hourly\nRandomizedDelaySec=10min\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n";
    let unit = format!("{name}.timer");
    Timer {
        files: vec![
            (folder.join(format!("{name}.service")), service),
            (folder.join(&unit), timer.to_owned()),
        ],
        command: format!("systemctl --user enable --now {}", shell_word(Path::new(&unit))),
    }
}

fn cron_line(program: &Path, project: &Path) -> String {
    // cron takes a percent sign for the end of the line.
    let line = format!("17 * * * * cd {} && {} tidy -q", shell_word(project), shell_word(program));
    line.replace('%', "\\%")
}

/// systemd reads a percent sign as the begin of a specifier.
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a unit's command line.
fn in_unit(word: &str) -> String {
    let escaped = specifiers(word).replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut name = String::new();
    for byte in text.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) => {
                name.push(byte.into());
            }
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_and_the_line_for_cron_name_program_and_project() {
        let (program, project) = (Path::new("/usr/bin/calve"), Path::new("/src/My app 100%"));
        let timer = systemd(program, project, Path::new("/u"));
        let name = r"calve-tidy-src-My\x20app\x20100\x25";
        assert_eq!(timer.files[0].0, Path::new(&format!("/u/{name}.service")));
        let service = &timer.files[0].1;
        assert!(service.contains("\nWorkingDirectory=/src/My app 100%%\n"), "{service}");
        assert!(service.contains("\nExecStart=\"/usr/bin/calve\" tidy --quiet\n"), "{service}");
        assert!(timer.command.ends_with(&format!("'{name}.timer'")), "{}", timer.command);
        assert_eq!(
            cron_line(program, project),
            r"17 * * * * cd '/src/My app 100\%' && /usr/bin/calve tidy -q"
        );
    }
}
