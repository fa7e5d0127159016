/** Sandboxes as containerd's Go client makes them: a record in the store, and a running one at its controller. */
import { isErrorClass, type RequestContext, withContext } from "@stevedore/base";
import type { AnyValue, Sandbox } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import type { Client } from "./client.ts";

/** The controller of a namespace that names none by its label. */
const DEFAULT_SANDBOXER = "shim";

export interface NewSandboxOptions {
  readonly id: string;
  readonly runtime: Sandbox["runtime"];
  readonly spec?: AnyValue;
  readonly labels?: Readonly<Record<string, string>>;
  readonly extensions?: Readonly<Record<string, AnyValue>>;
  /** Name of the controller; default the namespace's, else `shim`. */
  readonly sandboxer?: string;
  /** For the controller's own use. */
  readonly options?: AnyValue;
  /** Path of a network namespace that the sandbox is told of. */
  readonly netnsPath?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Makes a sandbox; its controller's `start` starts it. The record is removed again when the controller fails. */
export async function createSandbox(
  client: Client,
  context: RequestContext,
  { id, runtime, spec, labels = {}, extensions = {}, ...more }: NewSandboxOptions,
): Promise<Sandbox> {
  const sandboxer = more.sandboxer ?? (await defaultSandboxer(client, context));
  const { options, netnsPath = "", annotations = {} } = more;
  const wanted = { id, runtime, ...(spec === undefined ? {} : { spec }), labels, extensions, sandboxer };
  const sandbox = await client.sandboxes.create(context, wanted);
  try {
    await client.sandboxController(sandboxer).create(context, {
      sandbox,
      rootfs: [],
      ...(options === undefined ? {} : { options }),
      netnsPath,
      annotations,
    });
  } catch (error) {
    // A record without a sandbox would keep the id from being used again.
    await client.sandboxes.delete(context, id).catch(() => undefined);
    throw withContext(`failed to create sandbox with ${sandboxer} sandboxer`, error);
  }
  return sandbox;
}

/** Ends a sandbox with everything in it and removes its record. What of it is gone already is fine. */
export async function deleteSandbox(
  client: Client,
  context: RequestContext,
  { id, sandboxer }: Pick<Sandbox, "id" | "sandboxer">,
): Promise<void> {
  try {
    await client.sandboxController(sandboxer).shutdown(context, id);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw withContext("failed to shutdown sandbox", error);
  }
  try {
    await client.sandboxes.delete(context, id);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw withContext("failed to delete sandbox from store", error);
  }
}

/** The controller that a namespace uses when nobody names one. */
async function defaultSandboxer(client: Client, context: RequestContext): Promise<string> {
  if (context.namespace === undefined) return DEFAULT_SANDBOXER;
  try {
    const { labels } = await client.namespaces.get(context, context.namespace);
    const named = labels[Label.defaultSandboxer] ?? "";
    return named === "" ? DEFAULT_SANDBOXER : named;
  } catch (error) {
    // A namespace comes into being with the first thing in it.
    if (isErrorClass(error, "not-found")) return DEFAULT_SANDBOXER;
    throw withContext("failed to get default sandboxer", error);
  }
}
