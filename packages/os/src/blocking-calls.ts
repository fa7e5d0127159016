import { adoptFolders } from "./adopt-folders.ts";
import { copyTree } from "./copy-tree.ts";
import { diskUsage } from "./disk-usage.ts";
import { syncFileSystem } from "./files.ts";
import { mountAll, unmount, unmountAll, unmountRecursive } from "./mount.ts";
import { removeTree } from "./path.ts";

/**
 * The calls that may run off the loop, by name. Arguments and results cross a thread, so they are plain data. Loaded
 * by the thread; the loop's side imports only the type.
 */
export const blockingCalls = {
  adoptFolders,
  copyTree,
  diskUsage,
  mountAll,
  removeTree,
  syncFileSystem,
  unmount,
  unmountAll,
  unmountRecursive,
} as const;

export type BlockingCalls = typeof blockingCalls;
