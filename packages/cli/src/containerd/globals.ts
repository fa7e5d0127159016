import { defineCommand } from "../kit/program.ts";

/** The global flags of `containerd` as its commands see them; "" and absent mean "as the configuration says". */
export interface ContainerdGlobals {
  readonly config: string | undefined;
  readonly logLevel: string;
  readonly address: string;
  readonly root: string;
  readonly state: string;
}

/** Makes a command of containerd. */
export const containerdCommand = defineCommand<ContainerdGlobals>();
