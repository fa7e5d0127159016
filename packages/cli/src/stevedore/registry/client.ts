/** The registry client that a command's flags ask for. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { classified } from "@stevedore/base";
import {
  createRegistryClient,
  credentialFor,
  dockerConfigSource,
  firstOf,
  hostsDir,
  imageName,
  type RegistryClient,
} from "@stevedore/registry";
import { processHelpers } from "@stevedore/registry/auth/helper-process";
import type { CommandIO } from "../../kit/command.ts";
import { boolFlag, type FlagValues, stringFlag } from "../../kit/flags.ts";
import { VERSION } from "../../version.ts";

/** Where the daemon's pulls look, unless it is told otherwise. */
const HOSTS_DIRS = "/etc/containerd/certs.d:/etc/docker/certs.d";

/** Flags of commands that reach registries, with `ctr images pull`'s names. */
export const REGISTRY_FLAGS = {
  hostsDir: stringFlag("hosts-dir", "folders of hosts.toml files, with colons between them", { initial: HOSTS_DIRS }),
  plainHttp: boolFlag("plain-http", "reach hosts that no file names by plain HTTP"),
  skipVerify: boolFlag("skip-verify", "do not verify certificates of hosts that no file names", { aliases: ["k"] }),
  user: stringFlag("user", "user:password for the registry", { aliases: ["u"] }),
};

/** @throws invalid-argument for a user without a password */
export function registryClient(
  flags: FlagValues<typeof REGISTRY_FLAGS>,
  reference: string,
  { env }: Pick<CommandIO, "env">,
): RegistryClient {
  const home = env["DOCKER_CONFIG"] ?? join(env["HOME"] ?? "/root", ".docker");
  const docker = dockerConfigSource({
    file: join(home, "config.json"),
    read: readOrNone,
    helpers: processHelpers({ environment: env }),
  });
  return createRegistryClient({
    userAgent: `containerd/${VERSION.version}`,
    environment: env,
    hosts: hostsDir({
      roots: flags.hostsDir.split(":").filter((root) => root !== ""),
      ...(flags.plainHttp ? { scheme: "http" } : {}),
      ...(flags.skipVerify ? { tls: { skipVerify: true } } : {}),
    }),
    credentials: flags.user === "" ? docker : firstOf(userSource(flags.user, reference), docker),
  });
}

function userSource(user: string, reference: string): ReturnType<typeof credentialFor> {
  const colon = user.indexOf(":");
  if (colon < 0) throw classified("invalid-argument", '--user: found no password, want "user:password"');
  return credentialFor(imageName(reference).namespace, {
    kind: "basic",
    username: user.slice(0, colon),
    password: user.slice(colon + 1),
    from: "--user",
  });
}

async function readOrNone(file: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(file);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
