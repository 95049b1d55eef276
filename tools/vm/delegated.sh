#!/bin/sh
# Runs a command as what a user's systemd has given a group to (Delegate=yes): in a group of its own below that, so that
# there can be others with controllers beside it. With cgroup v1 nothing is delegated: the command runs where it is.
[ -e /sys/fs/cgroup/cgroup.controllers ] || exec "$@"
# shellcheck disable=SC2016 # for the inner shell
exec systemd-run --user --scope --quiet --property=Delegate=yes sh -c '
    group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    mkdir "$group/leaf" && echo 0 >"$group/leaf/cgroup.procs" && exec "$@"
' sh "$@"
