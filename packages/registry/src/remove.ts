import { classified } from "@stevedore/base";
import { parseDigest } from "@stevedore/oci";
import { apiPath, type ImageName, scopeOf } from "./image-name.ts";
import { overHosts, withCapabilities } from "./over-hosts.ts";
import { send } from "./request.ts";
import type { Session } from "./session.ts";

/** What is deleted: a manifest by the reference's digest or, where the registry can, its tag; or a blob. */
export type RemoveTarget = { readonly kind: "manifest" } | { readonly kind: "blob"; readonly digest: string };

/** @throws RegistryError; not-implemented as the registry's 405 says it, when it was not started for deletes */
export async function remove(
  session: Session,
  name: ImageName,
  request: { readonly target: RemoveTarget; readonly signal: AbortSignal },
): Promise<void> {
  const { target, signal } = request;
  const object = target.kind === "blob" ? target.digest : name.digest === "" ? name.tag : name.digest;
  if (object === "") throw classified("invalid-argument", "object required");
  if (target.kind === "blob") parseDigest(object);
  await overHosts(session, {
    doing: `delete ${object} of ${name.namespace}/${name.repository}`,
    hosts: withCapabilities(await session.hosts.hosts(name.namespace), ["push"]).slice(0, 1),
    signal,
    work: async (host, attempts) => {
      const response = await send(session, {
        host,
        namespace: name.namespace,
        method: "DELETE",
        path: apiPath(name, target.kind === "blob" ? "blobs" : "manifests", object),
        scopes: [scopeOf(name.repository, "pull", "push", "delete")],
        signal,
        attempts,
      });
      await response.discard();
    },
  });
}
