#!/usr/bin/env bash
# tools/install.sh install|uninstall, with PREFIX (default /usr/local) and DESTDIR. What install puts there is the list below,
# and uninstall removes exactly that: a link or file that no longer is ours stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
prefix=${PREFIX:-/usr/local}
to=${DESTDIR:-}$prefix
names=(containerd containerd-shim-runc-v2 containerd-stress ctr)
unit=lib/systemd/system/containerd.service

case "${1:-}" in
  install)
    install -d -m 755 "$to/bin" "$to/$(dirname "$unit")"
    # To a new file and then renamed: a running daemon keeps its own, and nobody sees half a binary.
    install -m 755 build/stevedore "$to/bin/.stevedore.new"
    mv -f "$to/bin/.stevedore.new" "$to/bin/stevedore"
    for name in "${names[@]}"; do
      if [ -e "$to/bin/$name" ] && [ "$(readlink "$to/bin/$name" || true)" != stevedore ]; then
        echo "install: $to/bin/$name is there and not ours: move it away first" >&2
        exit 1
      fi
      ln -sfn stevedore "$to/bin/$name"
    done
    sed "s|@bin@|$prefix/bin|" tools/containerd.service >"$to/$unit"
    chmod 644 "$to/$unit"
    echo "installed $to/bin/{stevedore,$(IFS=,; echo "${names[*]}")} and $to/$unit"
    ;;
  uninstall)
    for name in "${names[@]}"; do
      [ "$(readlink "$to/bin/$name" || true)" != stevedore ] || rm -f "$to/bin/$name"
    done
    rm -f "$to/bin/stevedore"
    if [ -f "$to/$unit" ] && grep -q 'Stevedore' "$to/$unit"; then rm -f "$to/$unit"; fi
    echo "removed Stevedore from $to (state under /run/containerd and /var/lib/containerd is left as it is)"
    ;;
  *)
    echo "usage: tools/install.sh install|uninstall" >&2
    exit 2
    ;;
esac
