import { classified } from "@stevedore/base";
import type { TaskApi } from "@stevedore/core";
import type { BootstrapRecord } from "./bundle.ts";

/** A task API's address, which begins with its protocol. @throws unknown in the peer's words when it does not */
export function apiRecord({ address, version }: TaskApi): BootstrapRecord {
  const plus = address.indexOf("+");
  if (plus < 0) {
    throw classified(
      "unknown",
      "the scheme of sandbox address should be in  the form of <protocol>+<unix|vsock|tcp>, i.e. ttrpc+unix or grpc+vsock",
    );
  }
  return { version, protocol: address.slice(0, plus), address: address.slice(plus + 1) };
}
