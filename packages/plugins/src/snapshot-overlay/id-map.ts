import { classified } from "@stevedore/base";

/** Labels that ask for a snapshot owned by another root; containerd's core/snapshots. */
export const UID_MAPPING_LABEL = "containerd.io/snapshot/uidmapping";
export const GID_MAPPING_LABEL = "containerd.io/snapshot/gidmapping";

/** A run of ids: inside the container from `container`, on the host from `host`, `size` of them. */
interface IdRange {
  readonly container: number;
  readonly host: number;
  readonly size: number;
}

const MAX_ID = 0xffff_ffff;

/** `container:host:size`, several joined by commas. @throws invalid-argument */
function parseRanges(text: string): IdRange[] {
  return text.split(",").map((part) => {
    const match = /^([0-9]+):([0-9]+):([0-9]+)$/.exec(part);
    const [container, host, size] = (match ?? []).slice(1).map(Number);
    if (
      container === undefined ||
      host === undefined ||
      size === undefined ||
      Math.max(container, host, size) > MAX_ID
    ) {
      throw classified(
        "invalid-argument",
        `failed to unmarshal snapshot ID mapped labels: ${JSON.stringify(text)} is no list of container:host:size`,
      );
    }
    return { container, host, size };
  });
}

function hostOf(ranges: readonly IdRange[], kind: string): number {
  for (const { container, host, size } of ranges) if (container === 0 && size > 0) return host;
  throw classified("invalid-argument", `failed to find root pair: no mapping for ${kind} 0 in the container`);
}

/**
 * Who is root on the host under the mapping labels, or undefined without them.
 *
 * @throws invalid-argument when one of the two is missing or malformed, or maps no 0.
 */
export function mappedRoot(labels: Readonly<Record<string, string>>): { uid: number; gid: number } | undefined {
  const uid = labels[UID_MAPPING_LABEL];
  const gid = labels[GID_MAPPING_LABEL];
  if (uid === undefined && gid === undefined) return undefined;
  return { uid: hostOf(parseRanges(uid ?? ""), "uid"), gid: hostOf(parseRanges(gid ?? ""), "gid") };
}
