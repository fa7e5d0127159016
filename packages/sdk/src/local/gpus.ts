/** NVIDIA GPUs for a container, as containerd's client asks for them: by a hook that runs nvidia-container-cli. */
import type { Hook } from "@stevedore/oci/runtime-spec";
import { findExecutable } from "@stevedore/os/spawn";

/** Everything a driver can do for a container, in containerd's order. */
const CAPABILITIES = ["compute", "compat32", "graphics", "utility", "video", "display"];

const HOOK = ["containerd", "oci-hook", "--"];

/**
 * The hook that gives a container these GPUs with everything they can do.
 *
 * @param devices indexes of GPUs.
 * @param env what the hook gets, and where both programs are looked up.
 * @throws not-found when `containerd` or `nvidia-container-cli` is not in the PATH.
 */
export function gpuHook(devices: readonly number[], env: Readonly<Record<string, string | undefined>>): Hook {
  const path = findExecutable("containerd", env["PATH"] ?? "");
  const configure = findExecutable("nvidia-container-cli", env["PATH"] ?? "");
  const given = devices.length > 0 ? [`--device=${devices.join(",")}`] : [];
  const can = CAPABILITIES.map((name) => `--${name}`);
  return {
    path,
    // The words in braces are filled in by `containerd oci-hook`.
    args: [...HOOK, configure, "--load-kmods", "configure", ...given, ...can, "--pid={{pid}}", "{{rootfs}}"],
    env: Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`])),
  };
}
