import { profileCommands } from "./kinds.ts";

/** The commands of `ctr pprof`. */
export const commands = profileCommands(({ parents }) => {
  const path = parents.get("pprof")?.["debugSocket"];
  if (typeof path !== "string" || path === "") throw new Error("debug socket path must be provided");
  return [path];
});
