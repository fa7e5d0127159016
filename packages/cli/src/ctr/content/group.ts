import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr content` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    { names: ["active"], usage: "display active transfers", load: async () => (await import("./active.ts")).command },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "permanently delete one or more blobs",
      load: async () => (await import("./delete.ts")).command,
    },
    {
      names: ["edit"],
      usage: "edit a blob and return a new digest",
      load: async () => (await import("./edit.ts")).command,
    },
    {
      names: ["fetch"],
      usage: "fetch all content for an image into containerd",
      load: async () => (await import("./fetch.ts")).command,
    },
    {
      names: ["fetch-object"],
      usage: "retrieve objects from a remote",
      load: async () => (await import("./fetch-object.ts")).command,
    },
    {
      names: ["fetch-blob"],
      usage: "retrieve blobs from a remote",
      load: async () => (await import("./fetch-blob.ts")).command,
    },
    { names: ["get"], usage: "get the data for an object", load: async () => (await import("./get.ts")).command },
    {
      names: ["ingest"],
      usage: "accept content into the store",
      load: async () => (await import("./ingest.ts")).command,
    },
    {
      names: ["list", "ls"],
      usage: "list all blobs in the store",
      load: async () => (await import("./list.ts")).command,
    },
    {
      names: ["push-object"],
      usage: "push an object to a remote",
      load: async () => (await import("./push-object.ts")).command,
    },
    { names: ["label"], usage: "add labels to content", load: async () => (await import("./label.ts")).command },
    {
      names: ["prune"],
      usage: "prunes content from the content store",
      load: async () => (await import("./prune/group.ts")).command,
    },
  ],
};
