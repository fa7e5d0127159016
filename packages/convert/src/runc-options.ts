/** What a daemon reads of the options that clients send to runc's shim. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { classified } from "@stevedore/base";
import type { AnyValue } from "@stevedore/core";
import { CheckpointOptionsSchema, OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";

type Bytes = Pick<AnyValue, "typeUrl" | "value">;

/** Whether a task's options name a folder of criu's images; it goes before a checkpoint that is content. */
export function restoresFromFolder(options: Bytes | undefined): boolean {
  if (options === undefined || !isType(options, OptionsSchema.typeName)) return false;
  return fromBinary(OptionsSchema, options.value).criuImagePath !== "";
}

/**
 * The folder a checkpoint is to be written to, "" for none, and whether the task ends with it.
 *
 * @throws unknown for options of another type, in the peer's words
 */
export function checkpointWishes(
  options: Bytes | undefined,
  runtime: string,
): { readonly imagePath: string; readonly exit: boolean } {
  if (options === undefined) return { imagePath: "", exit: false };
  if (!isType(options, CheckpointOptionsSchema.typeName)) {
    throw classified("unknown", `invalid task checkpoint option for ${runtime}`);
  }
  const { imagePath, exit } = fromBinary(CheckpointOptionsSchema, options.value);
  return { imagePath, exit };
}

/** An Any as the bytes of its message, which is how checkpoints keep a container's spec. */
export function anyToBytes({ typeUrl, value }: Bytes): Uint8Array {
  return toBinary(AnySchema, create(AnySchema, { typeUrl, value: new Uint8Array(value) }));
}

function isType({ typeUrl }: Bytes, name: string): boolean {
  return typeUrl.slice(typeUrl.lastIndexOf("/") + 1) === name;
}
