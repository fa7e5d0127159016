import { classified } from "@stevedore/base/errors";
import { decodeMessage } from "@stevedore/wire/codec";

/** containerd.runc.v1.Options, as the shim uses them. "" and 0 mean unset. */
export interface RuncOptions {
  readonly noPivotRoot: boolean;
  readonly noNewKeyring: boolean;
  /** Cgroup the shim itself joins. */
  readonly shimCgroup: string;
  /** Owner of the stdio pipes. */
  readonly ioUid: number;
  readonly ioGid: number;
  /** Name or path of the runtime binary; "" is runc. */
  readonly binaryName: string;
  /** Root of the runtime's state; the namespace is put below it. */
  readonly root: string;
  readonly systemdCgroup: boolean;
  readonly criuImagePath: string;
  readonly criuWorkPath: string;
}

export const DEFAULT_OPTIONS: RuncOptions = {
  noPivotRoot: false,
  noNewKeyring: false,
  shimCgroup: "",
  ioUid: 0,
  ioGid: 0,
  binaryName: "",
  root: "",
  systemdCgroup: false,
  criuImagePath: "",
  criuWorkPath: "",
};

/** The type of the options message, as it stands in an Any. */
export const OPTIONS_TYPE = "containerd.runc.v1.Options";
const CHECKPOINT_OPTIONS_TYPE = "containerd.runc.v1.CheckpointOptions";

/** An Any, in whichever representation. */
export interface AnyBytes {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** The type named by a type URL: what follows the last slash of a `type.googleapis.com/...` URL, else all of it. */
export function typeName(typeUrl: string): string {
  return typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
}

/**
 * The options in an Any. An absent or empty one means the defaults.
 *
 * @throws invalid-argument when it holds another type or cannot be decoded.
 */
export async function decodeOptions(any: AnyBytes | undefined): Promise<RuncOptions> {
  if (any === undefined || any.value.byteLength === 0) return DEFAULT_OPTIONS;
  if (typeName(any.typeUrl) !== OPTIONS_TYPE) throw wrongType("runtime options", any.typeUrl, OPTIONS_TYPE);
  const { OptionsSchema } = await import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb");
  const message = decodeMessage(OptionsSchema, any.value);
  return {
    noPivotRoot: message.noPivotRoot,
    noNewKeyring: message.noNewKeyring,
    shimCgroup: message.shimCgroup,
    ioUid: message.ioUid,
    ioGid: message.ioGid,
    binaryName: message.binaryName,
    root: message.root,
    systemdCgroup: message.systemdCgroup,
    criuImagePath: message.criuImagePath,
    criuWorkPath: message.criuWorkPath,
  };
}

/** containerd.runc.v1.CheckpointOptions, as the shim uses them. */
export interface CheckpointOptions {
  readonly exit: boolean;
  readonly openTcp: boolean;
  readonly externalUnixSockets: boolean;
  readonly terminal: boolean;
  readonly fileLocks: boolean;
  readonly emptyNamespaces: readonly string[];
  readonly cgroupsMode: string;
  readonly workPath: string;
}

/** The checkpoint options in an Any; an absent one means none set. @throws invalid-argument for another type */
export async function decodeCheckpointOptions(any: AnyBytes | undefined): Promise<CheckpointOptions> {
  if (any !== undefined && typeName(any.typeUrl) !== CHECKPOINT_OPTIONS_TYPE) {
    throw wrongType("checkpoint options", any.typeUrl, CHECKPOINT_OPTIONS_TYPE);
  }
  const { CheckpointOptionsSchema } = await import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb");
  const message = decodeMessage(CheckpointOptionsSchema, any?.value ?? new Uint8Array());
  return {
    exit: message.exit,
    openTcp: message.openTcp,
    externalUnixSockets: message.externalUnixSockets,
    terminal: message.terminal,
    fileLocks: message.fileLocks,
    emptyNamespaces: message.emptyNamespaces,
    cgroupsMode: message.cgroupsMode,
    workPath: message.workPath,
  };
}

function wrongType(what: string, found: string, want: string): Error {
  return classified("invalid-argument", `decode ${what}: found type ${JSON.stringify(found)}, want ${want}`);
}
