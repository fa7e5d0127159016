import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr images` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["check"],
      usage: "check existing images to ensure all content is available locally",
      load: async () => (await import("./check.ts")).command,
    },
    { names: ["export"], usage: "export images", load: async () => (await import("./export.ts")).command },
    { names: ["import"], usage: "import images", load: async () => (await import("./import.ts")).command },
    { names: ["inspect", "i"], usage: "inspect an image", load: async () => (await import("./inspect.ts")).command },
    {
      names: ["list", "ls"],
      usage: "list images known to containerd",
      load: async () => (await import("./list.ts")).command,
    },
    {
      names: ["mount"],
      usage: "mount an image to a target path",
      load: async () => (await import("./mount.ts")).command,
    },
    {
      names: ["unmount"],
      usage: "unmount the image from the target",
      load: async () => (await import("./unmount.ts")).command,
    },
    {
      names: ["pull"],
      usage: "pull an image from a remote",
      load: async () => (await import("./pull.ts")).command,
    },
    {
      names: ["push"],
      usage: "push an image to a remote",
      load: async () => (await import("./push.ts")).command,
    },
    {
      names: ["prune"],
      usage: "remove unused images",
      load: async () => (await import("./prune.ts")).command,
    },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "remove one or more images by reference",
      load: async () => (await import("./delete.ts")).command,
    },
    { names: ["tag"], usage: "tag an image", load: async () => (await import("./tag.ts")).command },
    {
      names: ["label"],
      usage: "set and clear labels for an image",
      load: async () => (await import("./label.ts")).command,
    },
    {
      names: ["convert"],
      usage: "convert an image",
      load: async () => (await import("./convert.ts")).command,
    },
    {
      names: ["usage"],
      usage: "display usage of snapshots for a given image ref",
      load: async () => (await import("./usage.ts")).command,
    },
  ],
};
