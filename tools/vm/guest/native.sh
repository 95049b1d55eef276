#!/bin/bash
# Becomes systemd on the image, as process 1 of the namespaces that native.py has made.
# Arguments: a folder to work in, the image, and for each cgroup hierarchy one "PLACE TYPE OPTIONS".
set -euo pipefail
folder=$1 image=$2
shift 2
mount --make-rprivate /
mkdir "$folder"/{disk,changes,root}
mount -o loop,ro "$image/disk" "$folder/disk"
mount -t tmpfs changes "$folder/changes"
mkdir "$folder"/changes/{upper,work}
mount -t overlay root "$folder/root" -o "lowerdir=$folder/disk,upperdir=$folder/changes/upper,workdir=$folder/changes/work"
cd "$folder/root"

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 dev dev
# No loop devices: what is attached to one would outlive a machine that is killed.
for name in null zero full random urandom tty kmsg fuse; do
    [ -e /dev/$name ] && touch dev/$name && mount --bind /dev/$name dev/$name
done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
ln -s pts/ptmx dev/ptmx
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=1777 tmp tmp # an overlay cannot be the upper directory of another
mount -t tmpfs -o mode=1777 tmp var/tmp
mount -t tmpfs -o mode=755 run run
mkdir run/vm
mount --bind "$folder/ports" run/vm

[ "${1%% *}" = /sys/fs/cgroup ] || mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
layout=systemd.unified_cgroup_hierarchy=1
for hierarchy; do
    read -r place type options <<<"$hierarchy"
    mkdir -p ".$place"
    mount -t "$type" -o "$options" cgroup ".$place"
    [ "$type" = cgroup2 ] ||
        layout="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0"
done

mkdir old
pivot_root . old
cd /
umount -l old
rmdir old
hostname vm
ip link set lo up
# shellcheck disable=SC2086 # two words
exec env -i container=vm SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --show-status=0 --log-target=journal $layout
