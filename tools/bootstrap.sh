#!/usr/bin/env bash
# Fetches the pinned Bun by npm into build/toolchain and installs the workspace's packages with it.
# Needs Node 18+ and npm 9+; after this nothing of the project runs on Node. Does nothing when all is in place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "bootstrap: $*" >&2
  exit 1
}

command -v node >/dev/null || fail "node is missing: install Node 18 or later (Debian: apt-get install nodejs npm)"
command -v npm >/dev/null || fail "npm is missing: install npm 9 or later (Debian: apt-get install npm)"
[ "$(node -p 'parseInt(process.versions.node)')" -ge 18 ] || fail "Node 18 or later is needed, found $(node --version)"

version=$(node -p 'require("./package.json").stevedore.bun')
# Bun's builds want AVX2 on x64; the baseline build does without it. There is no build of this version for musl that we test.
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-x64; grep -qw avx2 /proc/cpuinfo || platform=linux-x64-baseline ;;
  Linux-aarch64) platform=linux-aarch64 ;;
  *) fail "Stevedore runs on Linux, x86_64 or aarch64, found $(uname -s) $(uname -m)" ;;
esac
if ldd --version 2>&1 | grep -qi musl; then fail "a glibc system is needed, found musl"; fi

toolchain=build/toolchain
mkdir -p "$toolchain/bin"
if [ "$(cat "$toolchain/stamp" 2>/dev/null)" != "$platform@$version" ]; then
  echo "+ npm install @oven/bun-$platform@$version (into $toolchain)"
  # The platform package itself: the package named "bun" finds it in a post-install script, which npm 11 does not run.
  npm install --ignore-scripts --no-save --no-audit --no-fund --loglevel=error --prefix "$toolchain" "@oven/bun-$platform@$version" >/dev/null
  ln -sf "../node_modules/@oven/bun-$platform/bin/bun" "$toolchain/bin/bun"
  found=$("$toolchain/bin/bun" --version) || fail "the Bun that npm delivered does not start on this machine"
  [ "$found" = "$version" ] || fail "npm delivered Bun $found, but package.json pins $version"
  echo "$platform@$version" >"$toolchain/stamp"
fi

key=$(find bun.lock package.json packages tests bench -maxdepth 2 \( -name package.json -o -name bun.lock \) -exec sha256sum {} + | sort | sha256sum | cut -d' ' -f1)
if [ "$(cat build/install.stamp 2>/dev/null)" != "$key" ] || [ ! -d node_modules ]; then
  echo "+ bun install --frozen-lockfile"
  "$toolchain/bin/bun" install --frozen-lockfile
  echo "$key" >build/install.stamp
fi
