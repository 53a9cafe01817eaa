#!/bin/bash
# Process 1 of a lab node. Starts in fresh namespaces (mount, uts, ipc, pid, net, cgroup) and in the node's control
# groups; makes the node's root file system, enters it by pivot_root (CRIU refuses a plain chroot) and reaps for ever.
# Environment: NODE name, DIR state of this node, ROOTFS lower directory, SHARED and IMAGES directories for /lab,
# CGROUP v1|v2, CGROUPS "name=option ..." of the v1 hierarchies, KUBERNETES the directory of its programs where it is one of
# a cluster's nodes.
set -eu
R=$DIR/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$DIR/upper,workdir=$DIR/work" "$R"
mkdir -p "$R"/{proc,sys,dev,run,tmp,old,lab/images,lab/shared,var/lib/containerd,var/lib/godwit}
mount -t proc proc "$R/proc"
mount -t sysfs sysfs "$R/sys" # fresh: /sys/class/net of this network namespace
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mkdir -p "$R/run/lock"

# Own /dev: own terminals, own shared memory.
mount -t tmpfs -o mode=755,size=1m tmpfs "$R/dev"
mkdir "$R"/dev/{pts,shm,mqueue,net}
while read -r name major minor; do mknod -m 666 "$R/dev/$name" c "$major" "$minor"; done <<-L
	null 1 3
	zero 1 5
	full 1 7
	random 1 8
	urandom 1 9
	tty 5 0
	kmsg 1 11
	fuse 10 229
	net/tun 10 200
L
# The kernel hands out this number when it boots.
while read -r number name; do [ "$name" != userfaultfd ] || mknod -m 600 "$R/dev/$name" c 10 "$number"; done </proc/misc
ln -s pts/ptmx "$R/dev/ptmx"
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "/proc/self/${link#*:}" "$R/dev/${link%:*}"; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"
mount -t mqueue mqueue "$R/dev/mqueue"

# Control groups are mounted anew in this cgroup namespace: the root of each is the node's own directory.
if [ "$CGROUP" = v2 ]; then
	mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
else
	mount -t tmpfs -o mode=755,size=64k tmpfs "$R/sys/fs/cgroup"
	for group in $CGROUPS; do
		mkdir "$R/sys/fs/cgroup/${group%%=*}"
		mount -t cgroup -o "${group#*=}" cgroup "$R/sys/fs/cgroup/${group%%=*}"
	done
	mount -o remount,ro "$R/sys/fs/cgroup"
fi

# On the host's real file system: overlay on overlay is refused.
mount --bind "$DIR/containerd" "$R/var/lib/containerd"
mount --bind "$DIR/godwit" "$R/var/lib/godwit"
mount --bind "$SHARED" "$R/lab/shared"
mount --bind "$IMAGES" "$R/lab/images"
mount -o remount,bind,ro "$R/lab/images"

# Each start of the node is a boot of its own. A second, unhidden proc lets user namespaces mount theirs.
mkdir "$R/run/proc-unhidden"
mount -t proc proc "$R/run/proc-unhidden"
cat /proc/sys/kernel/random/uuid >"$R/run/boot_id"
mount --bind "$R/run/boot_id" "$R/proc/sys/kernel/random/boot_id"

if [ -n "${KUBERNETES:-}" ]; then
	mkdir -p "$R/opt/kubernetes" "$R/var/lib/kubelet"
	mount --bind "$KUBERNETES" "$R/opt/kubernetes"
	mount -o remount,bind,ro "$R/opt/kubernetes"
	mount --bind "$DIR/kubelet" "$R/var/lib/kubelet"
	ln -sf /opt/kubernetes/{crictl,kubectl} "$R/usr/local/bin/"
	# The kubelet insists on settings of the whole machine: it finds them as it wants them, and the machine keeps its own.
	while read -r setting value; do
		echo "$value" >"$R/run/sysctl.${setting#*/}"
		mount --bind "$R/run/sysctl.${setting#*/}" "$R/proc/sys/$setting"
	done <<-L
		kernel/panic 10
		kernel/panic_on_oops 1
		vm/overcommit_memory 1
		vm/panic_on_oom 0
	L
	# Of this node alone. The second is not there where bridges are always filtered, or never.
	echo 1 >/proc/sys/net/ipv4/ip_forward
	[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
fi

cd "$R"
pivot_root . old
cd /
umount -l /old
mount --make-rshared /
rmdir /old
hostname "$NODE"
ulimit -n "$(ulimit -Hn)"
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
: >/run/lab-ready
# A shell reaps whatever it inherits while it waits.
while :; do
	# Not `sleep infinity`, which tests look for.
	sleep 1d &
	wait $! || :
done
