#!/bin/busybox sh
# Process 1 of the initramfs: loads what the root disk needs, mounts it and goes on there, with the kernel argument guest.init.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do /bin/busybox insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 500 ]; do
  /bin/busybox usleep 20000
  tries=$((tries + 1))
done
/bin/busybox mount -t ext4 -o noatime /dev/vda /new || echo "the root disk cannot be mounted"
init=/guest/init.sh
for word in $(/bin/busybox cat /proc/cmdline); do
  case "$word" in guest.init=*) init=${word#*=} ;; esac
done
/bin/busybox umount /proc
exec /bin/busybox switch_root /new "$init"
