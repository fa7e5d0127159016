/**
 * The path of a program of Debian's containerd package, as `tools/apt.sh peer` unpacks it (nothing of it is installed);
 * undefined when it was not fetched: who tests beside it skips then.
 */
export function peerProgram(name: "containerd" | "containerd-shim-runc-v2" | "ctr"): string | undefined {
  return Bun.which(`${import.meta.dirname}/../../../build/peer/usr/bin/${name}`) ?? undefined;
}
