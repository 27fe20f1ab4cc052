#!/usr/bin/env bash
# The jobs of scripts/vm, each a function. A machine has two empty disks, /dev/vdc and /dev/vdd, a 9p folder of the host with the tag
# `shared`, no network but its own, a user ada who may use sudo, and `calve` on the PATH.

# Makes a filesystem that this kernel knows: the tools are of a newer one.
make_fs() { # FILESYSTEM DISK DIR
    local options=(-q -f) old
    old=/usr/share/xfsprogs/mkfs/lts_$(uname -r | cut -d. -f1,2).conf
    case $1 in
        xfs) [[ ! -e $old ]] || options+=(-c "options=$old") ;;
        ext4) options=(-q -F) ;;
    esac
    wipefs -aq "$2" && "mkfs.$1" "${options[@]}" "$2" && mkdir -p "$3" && mount -t "$1" "$2" "$3" && chmod 1777 "$3"
}

leave() { # DIR
    local try
    for try in {1..10}; do umount "$1" 2>/dev/null && return; sleep "0.$try"; done
    umount -l "$1"
}

# The distribution's own filesystems on another kernel.
job_kernel() {
    local fs method
    for fs in xfs btrfs ext4; do
        title "$fs"
        method=reflink
        [[ $fs != ext4 ]] || method=copy
        make_fs $fs /dev/vdc /m || { fail "mount $fs" "$(dmesg | tail -n 5)"; continue; }
        user_loop /m $method
        own_tests /m $fs $method
        leave /m
    done
}

job_overlay() {
    local row fs option method
    for row in xfs xfs,metacopy=on,redirect_dir=on xfs,index=on,xino=on xfs,volatile xfs,userxattr ext4; do
        title "overlay over $row"
        fs=${row%%,*} option=${row#"${row%%,*}"} method=reflink
        [[ $fs == xfs ]] || method=copy
        make_fs "$fs" /dev/vdc /base
        mkdir -p /base/{lower,upper,work}
        project /base/lower/below && cd /
        mount -t overlay -o "lowerdir=/base/lower,upperdir=/base/upper,workdir=/base/work$option" overlay /m || { fail "mount $row" "$(dmesg | tail -n 3)"; leave /base; continue; }
        user_loop /m $method
        check 'clone of a lower folder' calve -C /m clone below above
        check 'clone of a lower folder: the same' same /base/lower/below /m/above
        [[ $row != xfs ]] || own_tests /m overlay $method
        leave /m
        leave /base
    done
    title 'a rootless container: a user namespace'
    make_fs xfs /dev/vdc /m
    # shellcheck disable=SC2016
    check 'init, start and status' su ada -c 'mkdir /m/ada && cd /m/ada && mkdir app && echo 1 >app/a && cd app && unshare -Urm sh -c "calve init && calve start w && calve status w"'
    leave /m
}

# The host's folder. calve may work there or refuse, but never leaves half a store.
job_9p() {
    local cache
    for cache in none mmap loose; do
        title "9p, cache=$cache"
        mount -t 9p -o "trans=virtio,version=9p2000.L,cache=$cache,msize=262144" shared /m || { fail "mount cache=$cache" "$(dmesg | tail -n 5)"; continue; }
        mkdir -p /m/$cache
        says 'doctor: no reflinks' 3 '9p' calve doctor /m/$cache
        project /m/$cache/app
        check clone calve clone src ../cloned
        if calve init >/tmp/init 2>&1; then
            sed 's/^/        /' /tmp/init
            cd / && rm -rf /m/$cache && mkdir /m/$cache
            user_loop /m/$cache copy
        else
            says 'init refuses, with the way out' 1 'init --store' calve init
            check 'init leaves nothing behind' test ! -e .git/calve -a ! -e .calve
            mkdir -p /local
            check 'init with a store elsewhere' calve init --store /local/app.calve
            check 'start there' calve start a
            check 'start: the same' same . /local/app.worktrees/a
        fi
        cd / && leave /m
    done
}

# A server and two clients: this machine, and a network namespace with a mount of its own.
job_nfs() {
    local version client=(ip netns exec client) both='' at i n
    make_fs xfs /dev/vdc /served
    make_fs xfs /dev/vdd /local
    ip link set lo up
    ip netns add client
    ip link add server0 type veth peer name client0 netns client
    ip address add 10.9.0.1/24 dev server0 && ip link set server0 up
    "${client[@]}" ip address add 10.9.0.2/24 dev client0 && "${client[@]}" ip link set client0 up
    "${client[@]}" ip link set lo up
    echo '/served *(rw,no_root_squash,no_subtree_check,insecure,fsid=0)' >/etc/exports
    serve
    mkdir -p /second
    mount -t nfs4 -o vers=4.2 10.9.0.1:/ /m || { fail 'mount' "$(dmesg | tail -n 5)"; return; }
    "${client[@]}" mount -t nfs4 -o vers=4.2,nosharecache,clientaddr=10.9.0.2 10.9.0.1:/ /second
    title 'a store on NFS 4.2'
    mkdir /m/one && user_loop /m/one reflink
    title 'a project on NFS, its store on a local disk'
    mkdir /m/two && user_loop /m/two reflink /local/two.calve
    title 'a local project, its store on NFS'
    mkdir /local/three && user_loop /local/three reflink /m/three.calve
    for version in 4.1 3; do
        title "NFS $version"
        at=/
        [[ $version != 3 ]] || at=/served
        mkdir -p /old
        mount -t nfs -o "vers=$version,nolock,nosharecache" "10.9.0.1:$at" /old || { fail "mount $version" ''; continue; }
        says 'doctor: no reflinks' 3 nfs calve doctor /old
        check clone calve -C /old clone one/app/src "copied-$version"
        check 'clone: the same' same /old/one/app/src "/old/copied-$version"
        leave /old
    done
    title 'a second mount of the same store'
    says 'the second mount is refused' 1 'mount' calve -C /second/one/app start again
    title 'a remote on NFS, two clients at once, the server restarts'
    for i in m second; do
        project "/local/from-$i/app" && cd "/local/from-$i/app" || return
        calve init >/dev/null 2>&1
    done
    check 'a remote' calve remote init file:///m/remote
    for i in m second; do check "remote add $i" calve -C "/local/from-$i/app" remote add r "file:///$i/remote"; done
    for i in m second; do
        (
            cd "/local/from-$i/app" || exit 1
            for n in {1..6}; do
                echo "$n" >>src/f7
                calve snapshot "$i-$n" >/dev/null 2>&1 && calve push --to r "$i-$n" 2>&1 && echo "pushed $i-$n"
                ((n % 3)) || calve remote gc r 2>&1
            done
        ) >"/tmp/pushed-$i" &
        both+=" $!"
    done
    sleep 5
    serve
    # shellcheck disable=SC2086 # Two numbers.
    wait $both
    while read -r i; do
        check "checkout $i" calve checkout file:///m/remote "$i" "/local/got-$i"
    done < <(sed -n 's/^pushed //p' /tmp/pushed-m /tmp/pushed-second)
    check 'most pushes worked' test "$(grep -c '^pushed ' /tmp/pushed-m)" -ge 5 -a "$(grep -c '^pushed ' /tmp/pushed-second)" -ge 5
    check 'remote verify' calve -C /local/from-m/app remote verify r
    grep -vE '^pushed|^[0-9a-f]{64}$' /tmp/pushed-m /tmp/pushed-second | sort | uniq -c | sort -rn | head -n 12
    umount /second && leave /m
}

# Starts the server of NFS, or starts it again as after a crash of its processes.
serve() {
    modprobe nfsd
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /var/lib/nfs/v4recovery
    rpcbind 2>/dev/null
    rpc.nfsd 0
    pkill rpc.mountd
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    exportfs -ra
    rpc.nfsd 4 && rpc.mountd
}

job_zfs() {
    local row
    modprobe zfs || { fail 'modprobe zfs' 'the image has no module of ZFS for this kernel'; return; }
    zpool create -f -O mountpoint=none pool /dev/vdc
    for row in '' compression=off recordsize=4k dedup=on,checksum=sha256 xattr=dir,acltype=posix normalization=formD sync=always,copies=2; do
        title "ZFS $(cat /sys/module/zfs/version) $row"
        # shellcheck disable=SC2086 # An option a word.
        zfs create -o mountpoint=/m ${row:+-o ${row//,/ -o }} pool/tried || { fail "zfs create $row" ''; continue; }
        user_loop /m reflink
        [[ $row ]] || own_tests /m zfs reflink
        [[ $row ]] || says 'du: what is unknown is said' 0 '\?|unknown' calve -C /m/app list --disk
        cd / && zfs destroy -rf pool/tried
    done
    title 'between two datasets'
    zfs create -o mountpoint=/m pool/one && zfs create -o mountpoint=/other pool/two
    says 'doctor: two datasets' 3 'filesystem' calve doctor /m /other
    project /m/app
    check 'a store in the other dataset' calve init --store /other/app.calve
    check 'start there' calve start a
    check 'start: the same' same /m/app /other/app.worktrees/a
    title 'a quota'
    cd / && zfs destroy -rf pool/one && zfs create -o mountpoint=/m -o quota=24M pool/one
    user_quota /m
    title 'cloning turned off'
    echo 0 >/sys/module/zfs/parameters/zfs_bclone_enabled
    says 'doctor: cloning is off' 3 'zfs_bclone_enabled' calve doctor /m
    echo 1 >/sys/module/zfs/parameters/zfs_bclone_enabled
    cd / && zpool destroy pool
}

# A quota of ZFS counts clones in full: starts end with a clear error, and what is there stays.
user_quota() { # DIR
    project "$1/app"
    calve init >/dev/null 2>&1
    for i in {1..8}; do calve start "q$i" >/tmp/quota 2>&1 || break; done
    check 'a full quota is told' grep -qiE 'quota|EDQUOT|no space|ENOSPC' /tmp/quota
    sync
    check 'list still works' calve list
    check 'drop still works' calve drop --force --discard q1
    zpool sync
    check 'gc still works' calve store gc --grace 0s
    check 'verify still works' calve store verify
}

# The volume across four boots: made; used after a boot; its image missing; its image damaged.
job_volume() { # BOOT
    as() { su - ada -c "export PATH=/usr/local/bin:\$PATH; $*"; }
    local unit=home-ada-trees.mount image=/home/ada/trees.img
    case $1 in
        1)
            check 'no volume yet' as calve volume status
            check create as calve volume create trees --size 3G
            check 'create of an XFS' as calve volume create other --size 3G --fs xfs
            check 'a project' as "$(declare -f project); project ~/app"
            check 'init --volume' as 'cd app && calve init --volume ~/trees'
            check start as 'cd app && calve start one two'
            check 'direct I/O' direct_io trees
            as 'echo edit >>trees/app.worktrees/one/src/f7'
            ;;
        2)
            check 'mounted at boot' mountpoint -q /home/ada/trees
            check 'the XFS, too' mountpoint -q /home/ada/other
            check 'direct I/O after a boot' direct_io trees
            check list as 'cd app && calve list'
            says 'the edit is there' 3 'M src/f7' as 'cd app && calve status one'
            check 'start after a boot' as 'cd app && calve start three'
            check 'drop after a boot' as 'cd app && calve drop three'
            check verify as 'cd app && calve store verify'
            check grow as calve volume grow trees --size 4G
            umount /home/ada/trees
            says 'list says how to mount it' 1 "systemctl start $unit" as 'cd app && calve list'
            says 'start says so, too' 1 "systemctl start $unit" as 'cd app && calve start four'
            check check as calve volume check trees
            says 'create mounts it' 0 'mounted the volume' as calve volume create trees
            check 'direct I/O after that' direct_io trees
            umount /home/ada/trees && systemctl start $unit
            check 'direct I/O after a mount by hand' direct_io trees
            umount /home/ada/trees && mv $image /home/ada/away
            ;;
        3)
            check 'the boot went on without the image' bash -c '! mountpoint -q /home/ada/trees'
            check 'the unit failed' systemctl is-failed -q $unit
            check 'the other volume is mounted' mountpoint -q /home/ada/other
            for words in 'cd app && calve list' 'cd app && calve start four' 'calve volume check trees' 'calve volume create trees' 'calve volume remove trees'; do
                says "the image is gone: $words" 1 'trees.img is gone' as "$words"
            done
            says 'the image is gone: volume status' 3 'trees.img is gone' as calve volume status
            says 'nothing can be written into the empty folder' 1 'ermission denied' as 'touch trees/x'
            mv /home/ada/away $image
            says 'create mounts it' 0 'mounted the volume' as calve volume create trees
            says 'all is there' 3 'M src/f7' as 'cd app && calve status one'
            umount /home/ada/other && dd if=/dev/zero of=/home/ada/other.img bs=1M count=8 conv=notrunc status=none
            ;;
        4)
            check 'the boot went on with a damaged image' bash -c '! mountpoint -q /home/ada/other'
            check 'the first volume is mounted' mountpoint -q /home/ada/trees
            says 'check finds the damage' 3 'damage' as calve volume check other
            says 'status says that it is not mounted' 3 'not mounted' as calve volume status
            says 'remove asks for --force' 1 'force' as calve volume remove other
            check 'remove --force' as calve volume remove --force other
            says 'all is there' 3 'M src/f7' as 'cd app && calve status one'
            check 'undo after the drop' as 'cd app && calve drop --force one two && calve undo one && calve drop --force --discard one'
            says 'remove names the store' 1 'app.calve' as calve volume remove trees
            check remove as calve volume remove --force trees
            check 'nothing is left' bash -c '! ls /home/ada/*.img /etc/systemd/system/home-ada-* 2>/dev/null'
            ;;
    esac
}

# The unit that turns it on runs after the mount, and nothing waits for that.
direct_io() { # NAME
    local try
    for try in {1..20}; do
        [[ $(cat "/sys/block/$(findmnt -no SOURCE "/home/ada/$1" | cut -d/ -f3)/loop/dio") == 1 ]] && return
        sleep "0.$try"
    done
    return 1
}
