#!/usr/bin/env bash
# Sees to the Debian packages a lane needs: tools/apt.sh demo | test | peer
# Installs only what is missing, and never anything that brings a service: the real containerd that tests compare with is
# unpacked under build/peer, so the machine's own containerd or docker stays as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# package:command it is wanted for (a package is missing when its command is; "py:" names a Python module instead)
demo_needs=(runc:runc busybox-static:busybox)
test_needs=("${demo_needs[@]}" python3-grpcio:py:grpc strace:strace util-linux:setpriv iproute2:ip)

present() {
  case "$1" in
    py:*) /usr/bin/python3 -c "import ${1#py:}" 2>/dev/null ;;
    *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
  esac
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq "$@"
}

install_missing() {
  local missing=() need
  for need in "$@"; do
    present "${need#*:}" || missing+=("${need%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "these packages are missing: ${missing[*]}; install them (as root, on Debian or Ubuntu: apt-get install ${missing[*]})" >&2
    return 1
  fi
  echo "+ apt-get install --no-install-recommends ${missing[*]}"
  apt_get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
    apt_get update >/dev/null
    apt_get install -y --no-install-recommends "${missing[@]}" >/dev/null
  }
}

unpack_peer() {
  local peer=build/peer
  [ ! -x "$peer/usr/bin/containerd" ] || return 0
  command -v apt-get >/dev/null || {
    echo "the peer for interop tests is Debian's containerd package, and there is no apt-get here" >&2
    return 1
  }
  echo "+ apt-get download containerd (unpacked into $peer, not installed)"
  mkdir -p build/peer.tmp/debs
  chmod 755 build/peer.tmp/debs
  (cd build/peer.tmp/debs && { apt_get download containerd >/dev/null 2>&1 || { apt_get update >/dev/null && apt_get download containerd; }; })
  local deb
  for deb in build/peer.tmp/debs/*.deb; do dpkg-deb -x "$deb" build/peer.tmp/root; done
  build/peer.tmp/root/usr/bin/containerd --version >/dev/null
  rm -rf "$peer"
  mv build/peer.tmp/root "$peer"
  rm -rf build/peer.tmp
}

case "${1:-}" in
  demo) install_missing "${demo_needs[@]}" ;;
  test) install_missing "${test_needs[@]}" ;;
  peer) unpack_peer ;;
  *)
    echo "usage: tools/apt.sh demo|test|peer" >&2
    exit 2
    ;;
esac
