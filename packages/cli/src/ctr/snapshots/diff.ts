import { withLease } from "@stevedore/sdk/lease";
import { diffSnapshots } from "@stevedore/sdk/local/snapshot-diff";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { formatTime } from "../../kit/format.ts";
import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** Bytes of the diff read at once. */
const CHUNK = 1024 * 1024;

/** `ctr snapshots diff` */
export const command = ctrCommand({
  argsUsage: "[flags] <idA> [<idB>]",
  description: `Get the diff of two snapshots. The default second snapshot is the first snapshot's parent.`,
  flags: {
    mediaType: stringFlag("media-type", "media type to use for creating diff", {
      initial: "application/vnd.oci.image.layer.v1.tar+gzip",
    }),
    ref: stringFlag("ref", "content upload reference to use"),
    keep: boolFlag("keep", "keep diff content. up to creator to delete it."),
    label: stringsFlag("label", "labels to attach to the image"),
  },
  action: async ({ args, flags, globals, io, parents }) => {
    const [idA, idB] = args;
    if (idA === undefined || idA === "") throw new Error("snapshot id must be provided");
    await using session = await globals.connect();
    const { client } = session;
    const snapshotter = snapshotterOf(session, parents);
    await withLease(client.leases, session.context, async (context) => {
      const labels: Record<string, string> = parseLabelArgs(flags.label);
      if (flags.keep) labels["containerd.io/gc.root"] = formatTime(new Date());
      const made = await diffSnapshots(client.diff, context, {
        snapshotter,
        key: idA,
        ...(idB === undefined || idB === "" ? {} : { upper: idB }),
        mediaType: flags.mediaType,
        ref: flags.ref,
        labels,
      });
      await using reader = await client.content.open(context, made.digest);
      for (let at = 0; at < reader.size; ) {
        const bytes = await reader.readAt(at, CHUNK);
        if (bytes.byteLength === 0) throw new Error(`content ${made.digest} ended after ${at} of ${reader.size} bytes`);
        io.stdout.write(bytes);
        at += bytes.byteLength;
      }
    });
    return 0;
  },
});
