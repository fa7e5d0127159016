#!/usr/bin/env bash
# Runs a container end to end on a daemon of its own: private root, state and socket below one temporary folder, a namespace
# nobody else uses. Each command is printed before it runs. Nothing stays behind, and no other daemon is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/${DEMO_BIN:-build/bin}
[ "$(id -u)" = 0 ] || { echo "demo: containers need root: run it as root or with sudo" >&2; exit 1; }

dir=$(mktemp -d /tmp/stevedore-demo-XXXXXX)
namespace=demo-$$
image=docker.io/library/busybox:demo
had_run=$([ -d /run/containerd ] && echo yes || echo no)
daemon=
# The shim is found in PATH, as any client of containerd expects.
export PATH=$bin:$PATH
export CONTAINERD_ADDRESS=$dir/containerd.sock CONTAINERD_NAMESPACE=$namespace

cleanup() {
  set +e
  if [ -n "$daemon" ]; then
    ctr tasks rm --force demo >/dev/null 2>&1
    ctr containers rm demo >/dev/null 2>&1
    kill -TERM "$daemon"
    wait "$daemon"
  fi
  rmdir "/run/containerd/runc/$namespace" /sys/fs/cgroup/{,*/}"$namespace" 2>/dev/null
  if [ "$had_run" = no ]; then find /run/containerd -depth -type d -empty -delete 2>/dev/null; fi
  # Only files of ours are below: were anything still mounted there, it must not be deleted through the mount.
  if grep -q " $dir/" /proc/self/mountinfo; then echo "demo: something is still mounted below $dir, left as it is" >&2; else rm -rf "$dir"; fi
}
trap cleanup EXIT

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$'; printf ' %q' "$@"; printf '\n'; "$@"; }

say "an image, made from this machine's busybox"
show bun tools/busybox-image.ts "$dir/busybox.tar" "$image"

say "the daemon, on its own root, state and socket"
echo "\$ containerd --root $dir/root --state $dir/state --address $dir/containerd.sock &"
cat >"$dir/config.toml" <<TOML
version = 2
[plugins."io.containerd.internal.v1.opt"]
path = "$dir/opt"
TOML
containerd --config "$dir/config.toml" --root "$dir/root" --state "$dir/state" --address "$dir/containerd.sock" >"$dir/log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
  if ctr version >/dev/null 2>&1; then break; fi
  kill -0 "$daemon" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
  sleep 0.1
done
echo "\$ export CONTAINERD_ADDRESS=$CONTAINERD_ADDRESS CONTAINERD_NAMESPACE=$CONTAINERD_NAMESPACE"
show ctr version

say "the image goes into the store"
show ctr images import "$dir/busybox.tar"
show ctr images ls

say "a container that prints something and is gone"
show ctr run --rm "$image" hello echo hello from a container

say "one that stays, and a second process in it"
show ctr run -d "$image" demo sleep 1000
show ctr tasks ls
show ctr tasks exec --exec-id ps demo ps
show ctr containers ls

say "and away with it"
show ctr tasks kill -s KILL demo
show ctr tasks delete demo || true
show ctr containers delete demo
show ctr images rm --sync "$image"

say "done: the daemon is stopped and everything it had is removed"
