import { shimDebugSockets } from "@stevedore/sdk/local/shim-sockets";
import { profileCommands } from "../../pprof/kinds.ts";
import { shimName } from "../name.ts";

/** The commands of `ctr shim pprof`. */
export const commands = profileCommands((call) => {
  const name = shimName(call);
  if (name.id === "") throw new Error("container id must be provided");
  return shimDebugSockets(name);
});
