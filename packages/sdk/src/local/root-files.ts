/** Reads the user and group files of a container's root file system, which an image may have made hostile. */
import { decodeText, isErrorClass } from "@stevedore/base";
import type { Mount } from "@stevedore/core";
import { withTempMount } from "@stevedore/os/mount";
import { Root } from "@stevedore/os/path";

/** Most bytes read of a passwd or group file, as containerd limits them (CVE-2026-47262). */
const MAX_BYTES = 10 * 1024 * 1024;

/** S_IFMT and S_IFREG. */
const FILE_TYPE = 0o170000;
const REGULAR = 0o100000;

export interface UserFiles {
  readonly passwd: string;
  readonly group: string;
}

/** The files of a root file system that is mounted for the time of reading; "" for one that is missing. */
export async function readUserFiles(mounts: readonly Mount[]): Promise<UserFiles> {
  return withTempMount(mounts.map(readOnly), (folder) => readUserFilesIn(folder));
}

/** The files below a folder. Symlinks are resolved inside it, and only regular files are read. */
export function readUserFilesIn(folder: string): UserFiles {
  using root = Root.open(folder);
  return { passwd: readText(root, "etc/passwd"), group: readText(root, "etc/group") };
}

function readText(root: Root, path: string): string {
  try {
    if ((root.stat(path).mode & FILE_TYPE) !== REGULAR) return "";
    return decodeText(root.read(path, MAX_BYTES));
  } catch (error) {
    if (isErrorClass(error, "not-found")) return "";
    throw error;
  }
}

// An overlay without its upper layer can be mounted beside the one the container will use. Whose the files are plays no part in reading them.
function readOnly(given: Mount): Mount {
  const mount = { ...given, options: given.options.filter((option) => !/^[ug]idmap=/.test(option)) };
  if (mount.type !== "overlay") {
    return { ...mount, options: [...mount.options.filter((option) => option !== "rw"), "ro"] };
  }
  const upper = mount.options.find((option) => option.startsWith("upperdir="))?.slice("upperdir=".length);
  const options = mount.options
    .filter((option) => !option.startsWith("upperdir=") && !option.startsWith("workdir="))
    .map((option) =>
      option.startsWith("lowerdir=") && upper !== undefined
        ? `lowerdir=${upper}:${option.slice("lowerdir=".length)}`
        : option,
    );
  return { ...mount, options };
}
