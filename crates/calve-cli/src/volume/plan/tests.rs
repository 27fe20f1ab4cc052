use super::*;

fn volume(filesystem: Filesystem) -> Volume {
    let at = Path::new("/home/ada/trees");
    Volume { at: at.to_owned(), image: image_of(at), filesystem }
}

const OWNER: Owner = Owner { uid: 1000, gid: 100 };

#[test]
fn the_steps_are_those_of_the_machine_and_as_lines_they_can_be_pasted() {
    let unit = AtBoot::Systemd("home-ada-trees.mount".to_owned());
    let xfs_line = "/home/ada/trees.img /home/ada/trees xfs loop,discard,nosuid,nodev,x-calve.volume,nofail 0 0";
    for (filesystem, boot, is_mounted, expected) in [
        (
            Filesystem::Xfs,
            &AtBoot::Fstab,
            false,
            vec![
                format!("echo '{xfs_line}' >> /etc/fstab"),
                "mount /home/ada/trees".to_owned(),
                "losetup --direct-io=on \"$(findmnt -no SOURCE /home/ada/trees)\"".to_owned(),
            ],
        ),
        (
            Filesystem::Xfs,
            &AtBoot::Fstab,
            true,
            vec![
                format!("echo '{xfs_line}' >> /etc/fstab"),
                "losetup --direct-io=on \"$(findmnt -no SOURCE /home/ada/trees)\"".to_owned(),
            ],
        ),
        (
            Filesystem::Btrfs,
            &unit,
            false,
            vec![
                "printf '%s\\n' '[Unit]' 'Description=direct I/O for calve volume /home/ada/trees' \
                 After=home-ada-trees.mount '[Service]' Type=oneshot \
                 'ExecStart=-/bin/sh -c '\\''exec losetup --direct-io=on \"$$(findmnt -no SOURCE /home/ada/trees)\"'\\''' > \
                 /etc/systemd/system/home-ada-trees-direct-io.service"
                    .to_owned(),
                "printf '%s\\n' '[Unit]' 'Description=calve volume /home/ada/trees' \
                 RequiresMountsFor=/home/ada Wants=home-ada-trees-direct-io.service '[Mount]' What=/home/ada/trees.img \
                 Where=/home/ada/trees Type=btrfs \
                 Options=loop,discard,nosuid,nodev,noatime,user_subvol_rm_allowed,x-calve.volume \
                 '[Install]' WantedBy=multi-user.target > \
                 /etc/systemd/system/home-ada-trees.mount"
                    .to_owned(),
                "systemctl daemon-reload".to_owned(),
                "systemctl enable --now home-ada-trees.mount".to_owned(),
                "losetup --direct-io=on \"$(findmnt -no SOURCE /home/ada/trees)\"".to_owned(),
                "chown 1000:100 /home/ada/trees".to_owned(),
            ],
        ),
    ] {
        let lines = shell_lines(&steps_to_mount(&volume(filesystem), boot, OWNER, is_mounted));
        assert_eq!(lines, expected, "{filesystem:?} {boot:?} {is_mounted}");
    }
}

/// A store that came while the user typed the password was deleted.
#[test]
fn a_volume_that_must_be_empty_is_looked_at_once_more_while_nobody_can_write_to_it() {
    let (volume, line) = (volume(Filesystem::Xfs), Record::Line("line".to_owned()));
    let lines = |action| shell_lines(&steps_to_unmount(&volume, Some(&line), true, action)).len();
    assert_eq!((lines(RootAction::Unmount), lines(RootAction::UnmountEmpty)), (2, 4));
    let steps = steps_to_unmount(&volume, Some(&line), false, RootAction::UnmountEmpty);
    assert_eq!(shell_lines(&steps)[0], "mount -o remount,ro /home/ada/trees");
    assert_eq!(steps[0].1, Some(run("mount", [&"-o", &"remount,rw", &volume.at])));
    assert_eq!(steps[1].0, Step::IsEmpty(volume.at.clone()));
}

/// The undo reverses each step, the last first, so nothing stays in `/etc` after a failure.
#[test]
fn every_step_that_changes_what_stays_has_its_opposite() {
    for filesystem in [Filesystem::Xfs, Filesystem::Btrfs] {
        for boot in [AtBoot::Fstab, AtBoot::Systemd("x.mount".to_owned())] {
            for (step, undo) in steps_to_mount(&volume(filesystem), &boot, OWNER, false) {
                let expected = match &step {
                    Step::Write(path, _) => Some(Step::Remove(path.clone())),
                    Step::AddLine(line) => Some(Step::RemoveLine(line.clone())),
                    Step::Run("mount", at) => Some(Step::Run("umount", at.clone())),
                    Step::Run("systemctl", words) if words[0] == "daemon-reload" => {
                        Some(step.clone())
                    }
                    Step::Run("systemctl", words) => {
                        let mut words = words.clone();
                        words[0] = "disable".into();
                        Some(Step::Run("systemctl", words))
                    }
                    _ => None,
                };
                assert_eq!(undo, expected, "{step:?}");
            }
        }
    }
}

#[test]
fn what_is_written_for_the_boot_is_found_again_as_the_same_volume() {
    for filesystem in [Filesystem::Xfs, Filesystem::Btrfs] {
        let volume = volume(filesystem);
        let line = fstab_line(&volume);
        let fstab = format!(
            "# a comment with x-calve.volume\n/dev/sda1 / ext4 defaults 0 1\n#{line}\n{line}\n\
             /a.img /a xfs loop 0 0\nshort line\n"
        );
        assert_eq!(volumes_in_fstab(&fstab), [(volume.clone(), Record::Line(line))]);
        let text = unit_text(&volume, "u.mount");
        let found = volume_in_unit("u.mount", &text);
        assert_eq!(found, Some((volume, Record::Unit("u.mount".to_owned()))));
        assert_eq!(volume_in_unit("u.mount", &text.replace(MARK, "x-other")), None);
    }
    let of_others = "/my\\040disk /mnt/a\\134b ext4 x-calve.volume 0 0";
    assert_eq!(volumes_in_fstab(of_others), []);
}

#[test]
fn the_size_of_a_volume_is_in_whole_mebibytes_and_has_bounds() {
    for (size, expected) in [
        (0, None),
        (900 * MIB, None),
        (1_000_000_000, None),
        (GIB, Some(GIB)),
        (20_000_000_000, Some(19_073 * MIB)),
        (1 << 50, Some(1 << 50)),
        (u64::MAX, None),
    ] {
        assert_eq!(volume_size(size).ok(), expected, "{size}");
    }
}

#[test]
fn a_volume_may_have_three_quarters_of_what_is_free() {
    for (free, expected) in [
        (0, None),
        (GIB, None),
        (2 * GIB, Some(GIB)),
        (100 * GIB, Some(75 * GIB)),
        (101 * GIB, Some(75 * GIB)),
        (u64::MAX, Some(MOST_BYTES)),
    ] {
        assert_eq!(default_size(free), expected, "{free}");
    }
}

#[test]
fn a_host_that_fills_is_told_before_it_is_full() {
    let space = |size: u64, free: u64| Space { size: size * MIB, free: free * MIB };
    for (volume, host, expected) in [
        // The host can give all that the volume may still take.
        (space(10_000, 9_000), space(100_000, 50_000), Room::Enough),
        (space(10_000, 900), space(100_000, 901), Room::VolumeLittle),
        (space(10_000, 2_000), space(100_000, 2_001), Room::Enough),
        // It cannot, but has much.
        (space(100_000, 90_000), space(100_000, 20_000), Room::Enough),
        (space(100_000, 90_000), space(100_000, 9_000), Room::HostLittle),
        (space(100_000, 90_000), space(100_000, 900), Room::HostFull),
        (space(1_000_000, 900_000), space(1_000_000, 11_000), Room::Enough),
        (space(1_000_000, 900_000), space(1_000_000, 9_000), Room::HostLittle),
        (space(1_000_000, 900_000), space(1_000_000, 1_000), Room::HostFull),
        (space(1_000, 900), space(1_500, 200), Room::HostLittle),
        (space(1_000, 900), space(1_500, 50), Room::HostFull),
        (space(1_000, 20), space(1_500, 10), Room::HostFull),
    ] {
        assert_eq!(room(volume, host), expected, "{volume:?} {host:?}");
    }
}

/// The advice lacked `--size`, without which the command is wrong usage.
#[test]
fn what_is_advised_for_a_full_volume_works_when_it_is_pasted() {
    let (volume, host) =
        (Space { size: 20 * GIB, free: MIB }, Space { size: 90 * GIB, free: 9 * GIB });
    let (at, image) = (Path::new("/my trees"), Path::new("/images/trees"));
    let spaces = Spaces { at, image, volume, host };
    let told = |is_volume| advice(Room::VolumeLittle, &spaces, || is_volume).unwrap();
    let other = told(false);
    assert!(!other.contains("volume"), "{other}");
    let told = told(true);
    let command = told.split("'calve ").nth(1).unwrap();
    assert!(command.starts_with("volume grow '/my trees' --size 40G'"), "{told}");
}

#[test]
fn a_program_that_is_missing_has_the_package_of_the_distribution() {
    for (program, os_release, expected) in [
        ("mkfs.xfs", "ID=debian\n", "apt install xfsprogs"),
        ("mkfs.btrfs", "NAME=\"x\"\nID=ubuntu\nID_LIKE=debian\n", "apt install btrfs-progs"),
        (
            "mkfs.btrfs",
            "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n",
            "zypper install btrfsprogs",
        ),
        ("mkfs.xfs", "ID='fedora'\n", "dnf install xfsprogs"),
        ("losetup", "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "dnf install util-linux"),
        ("xfs_growfs", "ID=alpine\n", "apk add xfsprogs-extra"),
        ("losetup", "ID=alpine\n", "apk add losetup"),
        ("mkfs.btrfs", "ID=manjaro\nID_LIKE=arch\n", "pacman -S btrfs-progs"),
        ("mount", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"", "apt install mount"),
        ("mkfs.xfs", "ID=other\n", "install the package xfsprogs"),
        ("blkid", "", "install the package util-linux"),
    ] {
        assert_eq!(install_command(program, os_release), expected, "{program} {os_release}");
    }
}

#[test]
fn only_paths_that_need_no_quotes_anywhere_are_taken() {
    for (path, expected) in [
        ("/home/ada/trees-1.x_y+z@w", true),
        ("/home/größe", true),
        ("/home/a b", false),
        ("/home/a\tb", false),
        ("/home/a\\b", false),
        ("/home/a%b", false),
        ("/home/a,b", false),
        ("/home/a#b", false),
        ("/home/$a", false),
        ("/home/'a'", false),
    ] {
        assert_eq!(is_plain(Path::new(path)), expected, "{path}");
    }
}
