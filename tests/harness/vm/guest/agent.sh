#!/bin/bash
# Runs what the host asks for over the virtio port "agent", one script at a time:
#   host:  <id> <seconds it may take> <script in base64>
#   guest: ready            (once)
#          done <id> <exit status> <stdout in base64> <stderr in base64>
# What a script writes to the port "stream" the host has at once.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for module in virtio_console 9p 9pnet_virtio overlay fuse; do modprobe "$module"; done
port() {
  local port
  for port in /sys/class/virtio-ports/*; do
    if [ "$(cat "$port/name")" = "$1" ]; then echo "/dev/${port##*/}"; fi
  done
}
until [ -c "$(port stream)" ] && [ -c "$(port agent)" ]; do sleep 0.05; done
mkdir -p /run/guest
ln -sfn "$(port stream)" /run/guest/stream
repository=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^guest.repository=//p')
if ! mountpoint -q "$repository"; then
  mkdir -p "$repository"
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro repository "$repository"
fi
cd "$repository" || exit
exec 3<>"$(port agent)"
echo ready >&3
while read -r id limit script <&3; do
  base64 -d <<<"$script" >/run/guest/script
  timeout -k 5 "$limit" bash /run/guest/script </dev/null >/run/guest/stdout 2>/run/guest/stderr 3>&-
  code=$?
  {
    printf 'done %s %s ' "$id" "$code"
    base64 -w0 /run/guest/stdout
    printf ' '
    base64 -w0 /run/guest/stderr
    echo
  } >&3
done
