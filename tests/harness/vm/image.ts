// The disk and the initramfs of the VM lane's guests, made from what tools/apt.sh vm unpacked under build/vm: Debian's packages, Debian's
// kernel, and the scripts in guest/. Nothing of this project is in them: the guest sees the repository itself, read-only.
import { chmod, copyFile, mkdir, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { repository } from "../daemon.ts";
import { exec } from "../process.ts";

const FOLDER = join(repository, "build/vm");
const ROOT = join(FOLDER, "root");
const SCRIPTS = join(import.meta.dirname, "guest");

/** Room for what cases write; the file has holes, and what a guest writes is never kept. */
const DISK_SIZE = "2G";

/** What the disk needs before it can be mounted. Everything else is loaded from it. */
const BOOT_MODULES = ["virtio_pci", "virtio_blk", "ext4"];

/** The packages' own scripts were not run: these are the accounts they would have made. */
const FILES: Readonly<Record<string, string>> = {
  "etc/passwd": [
    "root:x:0:0:root:/root:/bin/bash",
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin",
    "messagebus:x:101:101::/nonexistent:/usr/sbin/nologin",
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    "",
  ].join("\n"),
  "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nmessagebus:x:101:\nnogroup:x:65534:\n",
  "usr/local/bin/.keep": "",
  "etc/hosts": "127.0.0.1 localhost guest\n",
  "etc/hostname": "guest\n",
  "etc/machine-id": "00000000000000000000000000000001\n",
  "etc/subuid": "root:100000:65536\n",
  "etc/subgid": "root:100000:65536\n",
  // systemd's own 90 s are less than a start takes on a machine that emulates several guests.
  "etc/systemd/system.conf.d/guest.conf": "[Manager]\nDefaultTimeoutStartSec=600\nDefaultTimeoutStopSec=600\n",
  "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=volatile\nForwardToConsole=no\n",
  "etc/systemd/system/guest-agent.service": [
    "[Unit]",
    "Description=Runs what the host asks for",
    "DefaultDependencies=no",
    "After=dbus.socket systemd-journald.socket",
    "[Service]",
    "ExecStart=/guest/agent.sh",
    "Restart=always",
    "TasksMax=infinity",
    "KillMode=process",
    "OOMScoreAdjust=-1000",
    "",
  ].join("\n"),
};

/** Links made in the disk; a unit linked to /dev/null is switched off: nobody logs in, and nothing is kept over a restart. */
const LINKS: Readonly<Record<string, string>> = {
  "etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
  "etc/systemd/system/multi-user.target.wants/guest-agent.service": "../guest-agent.service",
  "usr/bin/awk": "mawk",
  "etc/mtab": "/proc/self/mounts",
  ...Object.fromEntries(
    ["getty.target", "systemd-logind.service", "systemd-user-sessions.service", "systemd-update-utmp.service"].map(
      (unit) => [`etc/systemd/system/${unit}`, "/dev/null"],
    ),
  ),
};

/** What qemu is given. */
export type Image = { readonly kernel: string; readonly initramfs: string; readonly disk: string };

/** Makes what is missing or older than what it is made from; about three seconds. Throws when tools/apt.sh vm was not run. */
export async function guestImage(): Promise<Image> {
  const image: Image = {
    kernel: join(FOLDER, "kernel/vmlinuz"),
    initramfs: join(FOLDER, "initramfs.gz"),
    disk: join(FOLDER, "disk.img"),
  };
  const wanted = await stat(join(FOLDER, "wanted")).catch(() => undefined);
  if (wanted === undefined) throw new Error("build/vm is not there: run tools/apt.sh vm");
  const scripts = (await readdir(SCRIPTS)).filter((name) => name.endsWith(".sh")).map((name) => join(SCRIPTS, name));
  const sources = await Promise.all([import.meta.filename, ...scripts].map(async (file) => stat(file)));
  const newest = Math.max(wanted.mtimeMs, ...sources.map((one) => one.mtimeMs));
  const made = await stat(image.disk).catch(() => undefined);
  if (made !== undefined && made.mtimeMs > newest) return image;
  await fillRoot();
  await makeInitramfs(image.initramfs);
  await makeDisk(image.disk);
  return image;
}

async function fillRoot(): Promise<void> {
  for (const [path, text] of Object.entries(FILES)) {
    await mkdir(join(ROOT, path, ".."), { recursive: true });
    await writeFile(join(ROOT, path), text);
  }
  for (const [path, target] of Object.entries(LINKS)) {
    await mkdir(join(ROOT, path, ".."), { recursive: true });
    await rm(join(ROOT, path), { force: true });
    await symlink(target, join(ROOT, path));
  }
  await mkdir(join(ROOT, "guest"), { recursive: true });
  for (const name of ["init.sh", "agent.sh"]) {
    await copyFile(join(SCRIPTS, name), join(ROOT, "guest", name));
    await chmod(join(ROOT, "guest", name), 0o755);
  }
}

/** Modules in the order they are loaded in, as paths in the guest. */
async function bootModules(): Promise<string[]> {
  const [version = ""] = await readdir(join(ROOT, "usr/lib/modules"));
  const found = new Set<string>();
  for (const name of BOOT_MODULES) {
    const listed = await must(["chroot", ROOT, "/sbin/modprobe", "-S", version, "--show-depends", name]);
    for (const [, path = ""] of listed.matchAll(/^insmod (\S+)/gm)) found.add(path);
  }
  return [...found];
}

async function makeInitramfs(to: string): Promise<void> {
  const folder = join(FOLDER, "initramfs");
  await rm(folder, { recursive: true, force: true });
  for (const name of ["bin", "dev", "proc", "modules", "new"]) await mkdir(join(folder, name), { recursive: true });
  await copyFile(join(ROOT, "usr/bin/busybox"), join(folder, "bin/busybox"));
  await copyFile(join(SCRIPTS, "boot.sh"), join(folder, "init"));
  await chmod(join(folder, "init"), 0o755);
  for (const [index, path] of (await bootModules()).entries())
    await copyFile(join(ROOT, path), join(folder, "modules", `${String(index).padStart(2, "0")}-${basename(path)}`));
  const packed = `cd "$0" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$1"`;
  await must(["bash", "-o", "pipefail", "-c", packed, folder, `${to}.new`]);
  await rename(`${to}.new`, to);
  await rm(folder, { recursive: true, force: true });
}

async function makeDisk(to: string): Promise<void> {
  await rm(`${to}.new`, { force: true });
  // No journal: the disk is thrown away with the guest.
  await must([
    "mke2fs",
    "-q",
    "-t",
    "ext4",
    "-O",
    "^has_journal",
    "-E",
    "root_owner=0:0",
    "-d",
    ROOT,
    `${to}.new`,
    DISK_SIZE,
  ]);
  await rename(`${to}.new`, to);
}

async function must(command: readonly string[]): Promise<string> {
  const ran = await exec(command, {
    timeoutMs: 120_000,
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  if (ran.code !== 0) throw new Error(`${command.join(" ")}: status ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran.stdout;
}
