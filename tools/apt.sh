#!/usr/bin/env bash
# Sees to the Debian packages a lane needs: tools/apt.sh demo | test | peer | vm
# Installs only what is missing, and never anything that brings a service: the real containerd, docker, criu, prometheus and registry that tests
# work with are unpacked under build/, so the machine's own stay as they are; so are the kernel and the system that the
# VM lane boots, under build/vm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# package:command it is wanted for (a package is missing when its command is; "py:" names a Python module instead, "lib:" a library)
demo_needs=(runc:runc busybox-static:busybox)
test_needs=("${demo_needs[@]}" python3-grpcio:py:grpc skopeo:skopeo strace:strace util-linux:setpriv iproute2:ip libdevmapper1.02.1:lib:libdevmapper.so.1.02.1)

vm_needs=(qemu-system-x86:qemu-system-x86_64 busybox-static:busybox e2fsprogs:mkfs.ext4 util-linux:setpriv)
# The guest's system, with all these depend on: what Debian calls essential, as far as a test needs it, then what is tested with.
# usr-is-merged stands for the package that would merge an old system, with perl.
guest_packages=(
  base-files bash bsdutils coreutils dash diffutils findutils grep gzip hostname iproute2 kmod mount procps sed tar usr-is-merged util-linux
  systemd dbus runc crun criu busybox-static strace python3-grpcio
)
# Folders of the kernel's modules that a guest may want: all but what drives hardware it has not.
guest_modules=(arch block crypto drivers/block drivers/char drivers/md drivers/net/dummy.ko drivers/net/veth.ko drivers/net/macvlan.ko
  drivers/net/ipvlan drivers/net/tun.ko drivers/virtio fs lib mm net virt)

present() {
  case "$1" in
    py:*) /usr/bin/python3 -c "import ${1#py:}" 2>/dev/null ;;
    lib:*) PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep -q "[[:space:]]${1#lib:} " ;;
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

# unpack FOLDER PROGRAM PACKAGE…: the packages' files under build/FOLDER, unless PROGRAM is there already.
unpack() {
  local folder=build/$1 program=$2
  shift 2
  [ ! -x "$folder/$program" ] || return 0
  command -v apt-get >/dev/null || {
    echo "the peers for interop tests are Debian's packages ($*), and there is no apt-get here" >&2
    return 1
  }
  echo "+ apt-get download $* (unpacked into $folder, not installed)"
  local tmp=$folder.tmp
  rm -rf "$tmp"
  mkdir -p "$tmp/debs"
  chmod 755 "$tmp/debs"
  (cd "$tmp/debs" && { apt_get download "$@" >/dev/null 2>&1 || { apt_get update >/dev/null && apt_get download "$@"; }; })
  local deb
  for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
  [ -x "$tmp/root/$program" ]
  rm -rf "$folder"
  mv "$tmp/root" "$folder"
  rm -rf "$tmp"
}

# The package iptables with its libraries, since dockerd calls it; docker-init is tini's. The library dockerd itself is linked
# with must be installed (test_needs): runc starts dockerd as a hook, in an environment that is not ours to set.
docker_packages=(docker.io tini iptables libip4tc2 libip6tc2 libxtables12 libnftnl11 libnfnetlink0 libnetfilter-conntrack3 libmnl0)
criu_packages=(criu libnet1 libprotobuf-c1 libnl-3-200 libnftables1 libnftnl11 libmnl0 libjansson4 libxtables12 libedit2 libbsd0)

# bin/NAME starts the program with the libraries and extensions beside it, for who finds programs by PATH (runc its criu, dockerd
# its iptables).
wrappers() {
  local folder=$PWD/build/$1 pair lib
  shift
  lib=$(echo "$folder"/usr/lib/*-linux-gnu*)
  mkdir -p "$folder/bin"
  for pair in "$@"; do
    printf '#!/bin/bash\nexport LD_LIBRARY_PATH=%s XTABLES_LIBDIR=%s\nexec -a %s %s "$@"\n' \
      "$lib:${lib/usr\/lib/lib}" "$lib/xtables" "${pair%%:*}" "$folder/${pair#*:}" >"$folder/bin/${pair%%:*}"
    chmod 755 "$folder/bin/${pair%%:*}"
  done
}

unpack_peer() {
  unpack peer usr/bin/containerd containerd
  build/peer/usr/bin/containerd --version >/dev/null
}

unpack_docker() {
  unpack docker usr/sbin/dockerd "${docker_packages[@]}"
  local name names=()
  for name in iptables ip6tables iptables-restore ip6tables-restore; do names+=("$name:usr/sbin/xtables-legacy-multi"); done
  wrappers docker "${names[@]}"
  ln -sf ../usr/bin/docker ../usr/bin/docker-init ../usr/sbin/dockerd ../usr/sbin/docker-proxy build/docker/bin/
  build/docker/bin/dockerd --version >/dev/null
}

unpack_criu() {
  unpack criu usr/sbin/criu "${criu_packages[@]}"
  wrappers criu criu:usr/sbin/criu
  build/criu/bin/criu --version >/dev/null
}

unpack_prometheus() {
  unpack prometheus usr/bin/prometheus prometheus
  build/prometheus/usr/bin/prometheus --version >/dev/null 2>&1
}

unpack_registry() {
  unpack registry usr/bin/docker-registry docker-registry
  build/registry/usr/bin/docker-registry --version >/dev/null
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
  peer)
    unpack_peer
    unpack_docker
    unpack_criu
    unpack_prometheus
    unpack_registry
    ;;
  vm)
    install_missing "${vm_needs[@]}"
    unpack_guest
    ;;
  *)
    echo "usage: tools/apt.sh demo|test|peer|vm" >&2
    exit 2
    ;;
esac
