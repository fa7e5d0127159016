/** Content of a registry that is not asked for through an image. */
import { classified } from "@stevedore/base";
import { Digester, parseDigest } from "@stevedore/oci/digest";
import type { RegistryClient } from "@stevedore/sdk/images/registry";
import type { CommandIO } from "../../kit/command.ts";
import { localRegistries, type RegistryFlags, registryOf } from "../registry-flags.ts";

export interface RemoteContent extends Disposable {
  readonly registry: RegistryClient;
  /**
   * Writes content to standard output, as it comes, and sees to what it was: content is printed before its digest is known.
   * @throws data-loss when it had another digest
   */
  readonly print: (body: AsyncIterable<Uint8Array>, of: { readonly digest: string }) => Promise<void>;
}

/** The registry of a reference, by a command's flags. */
export async function remoteContent(flags: RegistryFlags, reference: string, io: CommandIO): Promise<RemoteContent> {
  const source = await registryOf(flags, reference, io);
  const registries = await localRegistries(flags);
  return {
    registry: registries.client(source),
    print: async (body, { digest }) => {
      const hash = new Digester(parseDigest(digest).algorithm);
      for await (const bytes of body) {
        hash.update(bytes);
        io.stdout.write(bytes);
      }
      const found = hash.digest();
      if (found !== digest) throw classified("data-loss", `fetch ${digest} of ${reference}: found ${found}: data loss`);
    },
    [Symbol.dispose]: () => registries[Symbol.dispose](),
  };
}
