import type { Mount } from "@stevedore/sdk/types";

/** The shell commands that perform the mounts on `target`. */
export function mountLines(mounts: readonly Mount[], target: string): string {
  return mounts
    .map(({ type, source, target: below, options }) => {
      const where = below === "" ? target : `${target}/${below}`;
      return `mount -t ${type} ${source} ${where} -o ${options.join(",")}\n`;
    })
    .join("");
}
