#!/bin/sh
# Prepares a private mount namespace in which `systemd --user` can run as user $1, waits until its input ends, and then
# ends and removes everything again. Run as: unshare --mount --propagation private sh systemd_user.sh UID FOLDER KEPT…
# Nothing of it is seen outside but the control group and FOLDER, and both are gone when it has ended.
set -eu
uid=$1 folder=$2
shift 2
group=/sys/fs/cgroup/${folder##*/}

mount -t tmpfs -o mode=0755 tmpfs /run/systemd
mkdir /run/systemd/system # sd_booted(3) asks for this folder alone

# Programs that lie in a folder that is not open to others (a home) keep their paths; only they are to be seen there.
# They are never mounted below FOLDER, which is removed with all that is in it.
number=0
for kept in "$@"; do
    hidden=$kept
    while [ "$hidden" != / ]; do
        case $(stat -Lc %A "$hidden") in *x | *t) ;; *) closed=$hidden ;; esac
        hidden=${hidden%/*}
        hidden=${hidden:-/}
    done
    [ -n "${closed:-}" ] || continue
    number=$((number + 1))
    mkdir -p "/run/systemd/stage/$number"
    mount --bind "$kept" "/run/systemd/stage/$number"
    case " ${covered:-} " in *" $closed "*) ;; *) cover="${cover:-} $closed" ;; esac
    covered="${covered:-} $closed"
    moved="${moved:-} $number:$kept"
    closed=
done
for place in ${cover:-}; do mount -t tmpfs -o mode=0755 tmpfs "$place"; done
for pair in ${moved:-}; do
    mkdir -p "${pair#*:}"
    mount --move "/run/systemd/stage/${pair%%:*}" "${pair#*:}"
done

umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup

clean() {
    if [ -d "$group" ]; then
        echo 1 >"$group/cgroup.kill" || true
        tries=100
        until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || [ $tries = 0 ]; do
            tries=$((tries - 1))
            sleep 0.05
        done
    fi
    rm -rf "$folder"
}
trap clean EXIT
mkdir "$group" "$group/manager"
[ -e "$group/cgroup.kill" ] || {
    echo "needs cgroup.kill, which came with Linux 5.14" >&2
    exit 1
}
chown "$uid" "$group" "$group/manager" "$group/cgroup.procs" "$group/cgroup.subtree_control" "$group/cgroup.threads" \
    "$group/manager/cgroup.procs"
echo prepared
cat >/dev/null
