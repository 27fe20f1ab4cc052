//! Why the system gives `calve run` no mount namespace, and what helps.

use calve::ErrorKind;

use crate::failure::Failure;
use crate::failure::stored::{own, store_failure};
use crate::text::errno_name;

/// What the system says of namespaces. `None`: it does not know the setting.
#[derive(Debug, Clone, Default)]
struct Limits {
    /// `user.max_user_namespaces`.
    most: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    unprivileged: Option<u64>,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    restricted: Option<u64>,
    /// The profile of AppArmor that this process is in, as `docker-default (enforce)`.
    profile: Option<String>,
    /// Whether system calls are filtered.
    is_filtered: bool,
}

impl Limits {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let number = |path: &str| text(path)?.trim().parse().ok();
        let status = text("/proc/self/status").unwrap_or_default();
        Self {
            most: number("/proc/sys/user/max_user_namespaces"),
            unprivileged: number("/proc/sys/kernel/unprivileged_userns_clone"),
            restricted: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            profile: text("/proc/self/attr/apparmor/current").map(|it| it.trim().to_owned()),
            is_filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }

    /// The reason for an errno, and the way out.
    fn why(&self, errno: Option<&str>) -> (String, String) {
        let sysctl = |line: &str| format!("as root: sysctl -w {line}");
        let container = |option: &str| {
            format!("start the container with --security-opt {option}=unconfined (docker, podman)")
        };
        let is_denied = matches!(errno, Some("EPERM" | "EACCES"));
        let confined = self.profile.as_deref().filter(|it| it.ends_with("(enforce)"));
        let (why, hint) = match (errno, confined) {
            (_, _) if self.most == Some(0) => (
                "user.max_user_namespaces is 0",
                sysctl("user.max_user_namespaces=15000"),
            ),
            (Some("ENOSPC"), _) => (
                "user.max_user_namespaces, or another limit of namespaces, is reached",
                sysctl("user.max_user_namespaces=100000"),
            ),
            (Some("EINVAL" | "ENOSYS"), _) => (
                "this kernel, or a sandbox, has no user namespaces",
                "root needs none; or build in the project's own folder".to_owned(),
            ),
            _ if is_denied && self.unprivileged == Some(0) => (
                "kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
                sysctl("kernel.unprivileged_userns_clone=1"),
            ),
            (_, Some(profile)) if is_denied && !profile.starts_with("unprivileged_userns") => {
                let why = format!("the profile {profile} of AppArmor forbids it");
                return (why, container("apparmor"));
            }
            _ if is_denied && self.restricted.is_some_and(|it| it != 0) => (
                "AppArmor lets a program without a profile mount nothing \
                 (kernel.apparmor_restrict_unprivileged_userns is 1)",
                "give calve a profile: see 'At the project's path' in docs/worktrees.md; or, for all \
                 programs, as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
                    .to_owned(),
            ),
            _ if is_denied && self.is_filtered => (
                "a filter of system calls forbids it, as containers have one",
                container("seccomp"),
            ),
            _ => {
                let why = format!("the system refuses it ({})", errno.unwrap_or("no errno"));
                return (why, "root may do this; a security module may forbid it: see dmesg".to_owned());
            }
        };
        (why.to_owned(), hint)
    }
}

pub(super) fn failure(error: &calve::Error) -> Failure {
    let (why, hint) = Limits::read().why(error.io_error().raw_os_error().and_then(errno_name));
    let failure = store_failure(error);
    let path = error.path();
    own(
        failure.operation,
        path,
        ErrorKind::NamespaceRefused,
        &format!("no mount namespace: {why}"),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason_and_a_way_out() {
        let free = Limits { most: Some(9), unprivileged: Some(1), ..Limits::default() };
        let docker = || Some("docker-default (enforce)".to_owned());
        let ubuntu = Limits { restricted: Some(1), ..free.clone() };
        for (limits, errno, why, hint) in [
            (Limits { most: Some(0), ..free.clone() }, "ENOSPC", "is 0", "namespaces=15000"),
            (free.clone(), "ENOSPC", "is reached", "=100000"),
            (free.clone(), "EINVAL", "has no user namespaces", "root"),
            (Limits { unprivileged: Some(0), ..free.clone() }, "EPERM", "clone is 0", "clone=1"),
            (ubuntu.clone(), "EPERM", "AppArmor lets", "a profile"),
            (ubuntu.clone(), "EACCES", "AppArmor lets", "userns=0"),
            (
                Limits {
                    profile: Some("unprivileged_userns (enforce)".to_owned()),
                    ..ubuntu.clone()
                },
                "EACCES",
                "AppArmor lets",
                "a profile",
            ),
            (Limits { profile: docker(), ..ubuntu }, "EACCES", "docker-default", "apparmor="),
            (Limits { is_filtered: true, ..free.clone() }, "EPERM", "a filter", "seccomp="),
            (
                Limits { profile: Some("unconfined".to_owned()), ..free.clone() },
                "EPERM",
                "(EPERM)",
                "dmesg",
            ),
            (free, "EIO", "(EIO)", "dmesg"),
        ] {
            let (found, way) = limits.why(Some(errno));
            assert!(
                found.contains(why) && way.contains(hint),
                "{limits:?} {errno}: {found}; {way}"
            );
        }
    }
}
