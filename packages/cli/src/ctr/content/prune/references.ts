import { Label } from "@stevedore/oci/annotations";
import { leaseId } from "@stevedore/sdk/lease";
import { boolFlag } from "../../../kit/flags.ts";
import { logLine } from "../../../kit/log-line.ts";
import { ctrCommand } from "../../define.ts";

/** Long enough for the one call that follows; should it not come, the lease expires. */
const LEASE_MS = 3_600_000;

/** `ctr content prune references` */
export const command = ctrCommand({
  flags: {
    async: boolFlag("async", "allow garbage collection to cleanup asynchronously"),
    dry: boolFlag("dry", "just show updates without applying (enables debug logging)"),
  },
  action: async ({ flags, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    const tell = (message: string, fields?: Readonly<Record<string, string>>): void => {
      if (flags.dry || globals.debug) io.stderr.write(logLine("debug", message, undefined, fields));
    };
    if (flags.dry) tell("dry run, no changes will be applied");
    for await (const { digest, labels } of client.content.list(context, [])) {
      const layers = Object.keys(labels).filter(isLayerReference);
      for (const label of layers) tell("Removing label", { digest, label });
      if (layers.length === 0 || flags.dry) continue;
      const kept = Object.fromEntries(Object.entries(labels).filter(([key]) => !layers.includes(key)));
      await client.content.update(
        context,
        { digest, labels: kept },
        layers.map((label) => `labels.${label}`),
      );
    }
    // The end of a lease is what asks for a collection.
    const expires = new Date(Date.now() + LEASE_MS).toISOString().replace(/\.\d+Z$/, "Z");
    const { id } = await client.leases.create(context, { id: leaseId(), labels: { [Label.gcExpire]: expires } });
    await client.leases.delete(context, id, { sync: !flags.async });
    return 0;
  },
});

// Old manifests number all their blobs, with the configuration as 0.
function isLayerReference(label: string): boolean {
  if (label.startsWith(Label.gcRefContentLayer)) return true;
  if (!label.startsWith(GC_REF_CONTENT)) return false;
  return /^\d+$/.test(label.slice(GC_REF_CONTENT.length)) && label !== `${GC_REF_CONTENT}0`;
}

const GC_REF_CONTENT = `${Label.gcRefContent}.`;
