/** Flags of the commands that talk to registries, and what they come to. */
import { readFile } from "node:fs/promises";
import { classified } from "@stevedore/base";
import type { Client } from "@stevedore/sdk/client";
import type { Registries, RegistryOptions } from "@stevedore/sdk/images/registry";
import type { RegistryAccess, RegistryCredentials, TransferRegistry, UnpackPlatform } from "@stevedore/sdk/types";
import type { CommandIO } from "../kit/command.ts";
import { boolFlag, type FlagValues, stringFlag } from "../kit/flags.ts";
import { readSecret } from "../kit/secret.ts";
import { VERSION } from "../version.ts";

/** Flags of `ctr images pull` and its like. */
export const REGISTRY_FLAGS = {
  skipVerify: boolFlag("skip-verify", "skip SSL certificate validation", { aliases: ["k"] }),
  plainHttp: boolFlag("plain-http", "allow connections using plain HTTP"),
  user: stringFlag("user", "user[:password] Registry user and password", { aliases: ["u"] }),
  refresh: stringFlag("refresh", "refresh token for authorization server"),
  hostsDir: stringFlag("hosts-dir", "custom hosts configuration directory"),
  tlscacert: stringFlag("tlscacert", "path to TLS root CA"),
  tlscert: stringFlag("tlscert", "path to TLS client certificate"),
  tlskey: stringFlag("tlskey", "path to TLS client key"),
  httpDump: boolFlag("http-dump", "dump all HTTP request/responses when interacting with container registry"),
  httpTrace: boolFlag("http-trace", "enable HTTP tracing for registry interactions"),
};

export type RegistryFlags = FlagValues<typeof REGISTRY_FLAGS>;

/** Those that only the client's own way knows: the daemon has no place for them in its interface. */
export function needsLocal(flags: RegistryFlags): boolean {
  return flags.skipVerify || flags.tlscacert !== "" || flags.tlscert !== "" || flags.tlskey !== "";
}

/** The registry as an end of a transfer. Asks for the password of a user without one. */
export async function registryOf(flags: RegistryFlags, reference: string, io: CommandIO): Promise<TransferRegistry> {
  const credentials = await credentialsOf(flags, io);
  const debug: NonNullable<RegistryAccess["debug"]> = {
    headers: flags.httpDump,
    trace: flags.httpTrace,
    write: (line) => io.stderr.write(line.endsWith("\n") ? line : `${line}\n`),
  };
  return {
    kind: "registry",
    reference,
    headers: {},
    hostDir: flags.hostsDir,
    defaultScheme: flags.plainHttp ? "http" : "",
    credentials: async () => Promise.resolve(credentials),
    ...(flags.httpDump || flags.httpTrace ? { debug } : {}),
  };
}

async function credentialsOf(flags: RegistryFlags, io: CommandIO): Promise<RegistryCredentials> {
  if (flags.refresh !== "") return { kind: "refresh-token", secret: flags.refresh };
  if (flags.user === "") return { kind: "none" };
  const colon = flags.user.indexOf(":");
  if (colon >= 0) {
    return { kind: "password", username: flags.user.slice(0, colon), secret: flags.user.slice(colon + 1) };
  }
  const secret = await readSecret("Password: ", io);
  return { kind: "password", username: flags.user, secret };
}

/** Registries that this process talks to itself, with what only it knows of TLS. Dispose them at the end. */
export async function localRegistries(flags: RegistryFlags, more: Partial<RegistryOptions> = {}): Promise<Registries> {
  const { createRegistries } = await import("@stevedore/sdk/images/registry");
  if ((flags.tlscert === "") !== (flags.tlskey === "")) {
    throw classified("invalid-argument", "--tlscert and --tlskey belong together: invalid argument");
  }
  const text = async (path: string): Promise<string> => readFile(path, "utf8");
  const tls = {
    ...(flags.tlscacert === "" ? {} : { ca: [await text(flags.tlscacert)] }),
    ...(flags.tlscert === "" ? {} : { client: [{ cert: await text(flags.tlscert), key: await text(flags.tlskey) }] }),
    ...(flags.skipVerify ? { skipVerify: true } : {}),
  };
  return createRegistries({
    userAgent: `containerd/${VERSION.version}`,
    hostDirs: [],
    environment: process.env,
    defaults: { tls },
    ...more,
  });
}

/** What a client's own transfers unpack for: any platform, with the snapshotter that was asked for. */
export function unpackInto(client: Client, snapshotter: string, platform: UnpackPlatform["platform"]): UnpackPlatform {
  return { platform, snapshotter, applier: client.diff };
}
