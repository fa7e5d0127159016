#!/bin/bash
# Process 1 of the small guest: the mounts of an ordinary machine, then the agent, again whenever it ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
ln -sfn /proc/self/fd /dev/fd
mount -t tmpfs -o mode=755 tmpfs /run
if grep -q guest.cgroup=v1 /proc/cmdline; then
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  # Read at once: the list changes with each mount.
  for name in $(awk '$4 == 1 { print $1 }' /proc/cgroups); do
    mkdir "/sys/fs/cgroup/$name"
    mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name"
  done
  echo 1 >/sys/fs/cgroup/memory/memory.use_hierarchy 2>/dev/null
else
  mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
  # What a service manager does: every controller for the groups below, with the processes that are there in one of their own.
  mkdir /sys/fs/cgroup/init
  echo $$ >/sys/fs/cgroup/init/cgroup.procs
  for name in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$name" >/sys/fs/cgroup/cgroup.subtree_control; done
fi
hostname guest
ip link set lo up
while :; do
  /guest/agent.sh
  sleep 1
done
