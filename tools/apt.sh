#!/usr/bin/env bash
# Sees to the Debian packages a lane needs: tools/apt.sh demo | test | peer | vm
# Installs only what is missing, and never anything that brings a service: the real containerd that tests compare with is
# unpacked under build/peer, so the machine's own containerd or docker stays as it is; so are the kernel and the system that the
# VM lane boots, under build/vm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# package:command it is wanted for (a package is missing when its command is; "py:" names a Python module instead)
demo_needs=(runc:runc busybox-static:busybox)
test_needs=("${demo_needs[@]}" python3-grpcio:py:grpc strace:strace util-linux:setpriv iproute2:ip)

vm_needs=(qemu-system-x86:qemu-system-x86_64 busybox-static:busybox e2fsprogs:mkfs.ext4 util-linux:setpriv)
# The guest's system, with all these depend on: what Debian calls essential, as far as a test needs it, then what is tested with.
# usr-is-merged stands for the package that would merge an old system, with perl.
guest_packages=(
  base-files bash coreutils dash diffutils findutils grep gzip hostname iproute2 kmod mount procps sed tar usr-is-merged util-linux
  systemd dbus runc crun criu busybox-static strace python3-grpcio
)
# Folders of the kernel's modules that a guest may want: all but what drives hardware it has not.
guest_modules=(arch block crypto drivers/block drivers/char drivers/md drivers/net/dummy.ko drivers/net/veth.ko drivers/net/macvlan.ko
  drivers/net/ipvlan drivers/net/tun.ko drivers/virtio fs lib mm net virt)

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

# Downloads packages with everything they depend on, as if nothing were installed, into a folder; the machine's own state is not touched.
download_closure() {
  local to=$1
  shift
  mkdir -p "$to/partial"
  : >"$to/none"
  chmod -R a+rX "$to"
  apt_get -y --no-install-recommends --download-only -o Dir::State::status="$PWD/$to/none" -o Dir::Cache::archives="$PWD/$to" \
    -o Debug::NoLocking=1 -o APT::Sandbox::User=root install "$@" >/dev/null
}

unpack_guest() {
  local vm=build/vm want kernel deb module wanted=()
  want="$(printf '%s\n' "${guest_packages[@]}" "${guest_modules[@]}")"
  [ "$(cat "$vm/wanted" 2>/dev/null)" != "$want" ] || return 0
  command -v apt-get >/dev/null || {
    echo "the VM lane boots Debian's kernel and packages, and there is no apt-get here" >&2
    return 1
  }
  echo "+ apt-get download the guest's packages and kernel (unpacked into $vm, not installed)"
  rm -rf "$vm" build/vm.tmp
  mkdir -p build/vm.tmp/kernel build/vm.tmp/root/usr/{bin,sbin,lib,lib64}
  local at=build/vm.tmp
  download_closure $at/debs "${guest_packages[@]}" 2>/dev/null || {
    apt_get update >/dev/null
    download_closure $at/debs "${guest_packages[@]}"
  }
  kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
  (cd $at/kernel && apt_get -o APT::Sandbox::User=root download "$kernel" >/dev/null)
  for module in bin sbin lib lib64; do ln -s "usr/$module" "$at/root/$module"; done
  for deb in $at/debs/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C $at/root; done
  rm -rf $at/debs $at/root/usr/share/{doc,man,locale,i18n,info,lintian}
  for module in "${guest_modules[@]}"; do wanted+=("./lib/modules/*/kernel/$module"); done
  dpkg-deb --fsys-tarfile $at/kernel/*.deb | tar -x -C $at/kernel --wildcards "${wanted[@]}" './lib/modules/*/modules.*' './boot/vmlinuz-*'
  mv $at/kernel/lib/modules $at/root/usr/lib/modules
  mv $at/kernel/boot/vmlinuz-* $at/kernel/vmlinuz
  rm -rf $at/kernel/{lib,boot,*.deb}
  chroot $at/root /sbin/depmod "$(ls $at/root/usr/lib/modules)"
  mv $at "$vm"
  echo "$want" >"$vm/wanted"
}

case "${1:-}" in
  demo) install_missing "${demo_needs[@]}" ;;
  test) install_missing "${test_needs[@]}" ;;
  peer) unpack_peer ;;
  vm)
    install_missing "${vm_needs[@]}"
    unpack_guest
    ;;
  *)
    echo "usage: tools/apt.sh demo|test|peer|vm" >&2
    exit 2
    ;;
esac
