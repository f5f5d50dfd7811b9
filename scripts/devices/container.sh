#!/bin/sh
# Machines with a real systemd and sshd in two seconds each: x86 containers (systemd-nspawn) of the amd64 root file system, each with
# an address of its own. They share the host's kernel and page cache: a kill here ends every process at once, as a power cut does, but
# loses no written data. Lost data is what QEMU is for (boot.py).
#
#     scripts/devices/container.sh up NAME [--disk SIZE]    make and start, or start again on the same disk; prints the address
#     scripts/devices/container.sh kill NAME                power cut: every process is killed at once, nothing says goodbye
#     scripts/devices/container.sh exec NAME COMMAND...     run as root in it, without ssh
#     scripts/devices/container.sh ssh NAME [COMMAND...]    by ssh, as user pi
#     scripts/devices/container.sh down NAME                kill and remove it with its disk
#
# --disk 300M: /opt is an ext4 file system of that size (kept over kill and up), so that "disk full" is real.
# User pi may sudo without a password; key and known hosts: $cache/containers/ssh/{id_ed25519,known_hosts,config}. Machines see
# each other and the host (10.77.0.1) over a bridge, and nothing else. Root only.
set -eu
# shellcheck source=scripts/devices/lib.sh
. "$(dirname "$0")/lib.sh"
need systemd-nspawn ip ssh-keygen nsenter mke2fs
need_root
home="$cache/containers"
ssh="$home/ssh"
bridge=ecboard0
mkdir -p "$ssh"

# leader NAME: the process id of its init, seen from here; nothing where it does not run.
leader() {
    nspawn=$(cat "$home/$1/nspawn.pid" 2>/dev/null) || return 0
    [ "$(tr '\0' ' ' <"/proc/$nspawn/cmdline" 2>/dev/null | grep -c -- "--machine=$1 ")" = 1 ] || return 0
    tr -d " " <"/proc/$nspawn/task/$nspawn/children"
}

network() {
    [ -d /sys/class/net/$bridge ] && return
    ip link add $bridge type bridge
    ip addr add 10.77.0.1/24 dev $bridge
    ip link set $bridge up
}

# make NAME [SIZE]: its files. The root is an overlay: nothing is copied, a machine takes some megabytes.
make() {
    machine="$home/$1"
    rm -rf "$machine.part" && mkdir -p "$machine.part/changes" "$machine.part/work" "$machine.part/root" "$machine.part/opt"
    mkdir -p "$home/addresses"
    number=2
    while ! mkdir "$home/addresses/$number" 2>/dev/null; do number=$((number + 1)); done
    echo "$number" >"$machine.part/number"
    if [ -n "${2:-}" ]; then
        truncate -s "$2" "$machine.part/opt.ext4"
        mke2fs -q -F -t ext4 -m 0 "$machine.part/opt.ext4"
    fi
    mv "$machine.part" "$machine"
}

# furnish NAME: what a flashed image would bring: host name, address, host keys, a user with a key.
furnish() {
    root="$home/$1/root"
    [ -e "$ssh/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C container -f "$ssh/id_ed25519"
    echo "$1" >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$1" >"$root/etc/hosts"
    mkdir -p "$root/etc/systemd/network"
    printf '[Match]\nName=host0\n[Network]\nAddress=10.77.0.%s/24\nLinkLocalAddressing=no\n' "$number" >"$root/etc/systemd/network/10-host0.network"
    ssh-keygen -q -A -f "$root"
    ln -sf /dev/null "$root/etc/systemd/system/console-getty.service"
    ln -sf /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    for unit in systemd-networkd ssh; do
        ln -sf "/lib/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
    done
    chroot "$root" useradd -m -s /bin/bash -G adm,sudo,video pi
    mkdir -p "$root/home/pi/.ssh"
    cp "$ssh/id_ed25519.pub" "$root/home/pi/.ssh/authorized_keys"
    chroot "$root" chown -R pi:pi /home/pi/.ssh
    echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/pi"
    touch "$home/$1/furnished"
}

up() {
    name=$1
    size=""
    [ "${2:-}" = --disk ] && size=$3
    [ -d "$cache/rootfs-amd64" ] || fail "expected $cache/rootfs-amd64, found none: scripts/devices/rootfs.sh amd64"
    [ -z "$(leader "$name")" ] || fail "expected $name to be off, found it running"
    [ -d "$home/$name" ] || make "$name" "$size"
    machine="$home/$name"
    number=$(cat "$machine/number")
    mountpoint -q "$machine/root" || mount -t overlay overlay \
        -o "lowerdir=$cache/rootfs-amd64,upperdir=$machine/changes,workdir=$machine/work" "$machine/root"
    bind=""
    if [ -e "$machine/opt.ext4" ]; then
        mountpoint -q "$machine/opt" || mount -o loop "$machine/opt.ext4" "$machine/opt"
        bind="--bind=$machine/opt:/opt"
    fi
    [ -e "$machine/furnished" ] || furnish "$name"
    network
    # shellcheck disable=SC2086  # $bind is one word or none
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 setsid systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$machine/root" \
        --machine="$name" --network-bridge=$bridge --console=pipe $bind </dev/null >"$machine/console.log" 2>&1 &
    echo $! >"$machine/nspawn.pid"
    reach "$name"
    {
        echo "Host $name"
        echo "  HostName 10.77.0.$number"
        printf '  User pi\n  IdentityFile %s\n  UserKnownHostsFile %s\n  IdentitiesOnly yes\n' "$ssh/id_ed25519" "$ssh/known_hosts"
    } >"$machine/ssh_config"
    cat "$home"/*/ssh_config >"$ssh/config"
    echo "10.77.0.$number"
}

# reach NAME: wait until its sshd answers, and learn its host key from its disk, not from the network.
reach() {
    touch "$ssh/known_hosts"
    ssh-keygen -q -R "10.77.0.$number" -f "$ssh/known_hosts" >/dev/null 2>&1 || true
    echo "10.77.0.$number $(cut -d ' ' -f 1,2 "$home/$1/root/etc/ssh/ssh_host_ed25519_key.pub")" >>"$ssh/known_hosts"
    tries=0
    until ssh -q -i "$ssh/id_ed25519" -o UserKnownHostsFile="$ssh/known_hosts" -o BatchMode=yes -o ConnectTimeout=2 "pi@10.77.0.$number" true; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "expected sshd of $1 at 10.77.0.$number within 20 s, got no answer; see $home/$1/console.log"
        sleep 0.2
    done
}

# cut NAME: all its processes die with their init, since it is process 1 of their namespace.
cut_power() {
    init=$(leader "$1")
    [ -z "$init" ] && return
    nspawn=$(cat "$home/$1/nspawn.pid")
    kill -KILL "$init"
    while [ -d "/proc/$nspawn" ]; do sleep 0.05; done
    rm -f "$home/$1/nspawn.pid"
}

down() {
    [ -d "$home/$1" ] || return 0
    cut_power "$1"
    for place in opt root; do
        while mountpoint -q "$home/$1/$place"; do umount "$home/$1/$place" || sleep 0.2; done
    done
    rmdir "$home/addresses/$(cat "$home/$1/number")"
    rm -rf "${home:?}/$1"
}

command=${1:-}
[ -n "$command" ] && shift
case $command in
up) up "$@" ;;
kill) cut_power "$1" ;;
down) down "$1" ;;
exec)
    init=$(leader "$1")
    [ -n "$init" ] || fail "expected $1 to run, found it off: scripts/devices/container.sh up $1"
    shift
    exec nsenter -t "$init" -m -u -i -n -p -C -- /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb "$@"
    ;;
ssh)
    machine=$1
    shift
    exec ssh -F "$ssh/config" "$machine" "$@"
    ;;
*) fail "expected up, kill, exec, ssh or down, got '$command'" ;;
esac
