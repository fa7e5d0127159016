// What nobody can go below: the start of a compiled Bun program, and runc by itself on the same root file system.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { program } from "../tests/harness/daemon.ts";
import { busyboxLayer } from "../tests/harness/images.ts";
import { KEPT, STRESS_CONTAINERS, STRESS_WORKERS } from "./cases.ts";
import { succeed, timed, tmpfs } from "./world.ts";

/**
 * What a runtime asks of runc for one container after the other: create, start, and delete as soon as it has ended. Arguments: runc's root, the
 * bundle, an id to number, how many.
 */
const LIFE = `
set -e
n=0
while [ "$n" -lt "$4" ]; do
  n=$((n + 1))
  runc --root "$1" create --bundle "$2" "$3-$n" </dev/null >/dev/null 2>&1
  runc --root "$1" start "$3-$n"
  until runc --root "$1" delete "$3-$n" 2>/dev/null; do :; done
done`;

export type Floor = { readonly name: string; readonly measure: () => Promise<number> };

/** Builds what the floors need and gives them in order. `stack` takes everything down again. */
export async function floors(stack: AsyncDisposableStack): Promise<readonly Floor[]> {
  const folder = await tmpfs(stack);
  const hello = join(KEPT, "hello");
  await writeFile(`${hello}.ts`, 'console.log("hello");\n');
  await succeed([process.execPath, "build", "--compile", "--bytecode", "--minify", `${hello}.ts`, "--outfile", hello], {
    PATH: process.env["PATH"] ?? "",
  });
  const rootfs = join(folder, "rootfs");
  await mkdir(rootfs);
  await writeFile(join(folder, "layer.tar"), await busyboxLayer());
  await succeed(["tar", "-xf", join(folder, "layer.tar"), "-C", rootfs]);
  await succeed(["runc", "spec", "--bundle", folder]);
  const spec: unknown = await Bun.file(join(folder, "config.json")).json();
  const write = async (...args: string[]): Promise<void> => {
    if (typeof spec !== "object" || spec === null) throw new Error("runc spec wrote no object");
    const process = { cwd: "/", args, env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
    await writeFile(join(folder, "config.json"), JSON.stringify({ ...spec, process }));
  };
  const runc = ["runc", "--root", join(folder, "runc")];
  await write("sleep", "100000");
  const sleeper = `floor-exec-${process.pid}`;
  await timed([...runc, "run", "-d", "--bundle", folder, sleeper]);
  stack.defer(async () => {
    await succeed([...runc, "delete", "--force", sleeper]);
  });
  await write("true");
  let turn = 0;
  return [
    { name: "/bin/true", measure: () => timed(["/bin/true"]) },
    { name: "hello, compiled by bun", measure: () => timed([hello]) },
    {
      name: "containerd-shim-runc-v2 -v (ours)",
      measure: () => timed([program("ours", "containerd-shim-runc-v2"), "-v"]),
    },
    {
      name: "containerd-shim-runc-v2 -v (theirs)",
      measure: () => timed([program("debian", "containerd-shim-runc-v2"), "-v"]),
    },
    {
      name: "runc run",
      measure: () => {
        turn += 1;
        return timed([...runc, "run", "--bundle", folder, `floor-${process.pid}-${turn}`]);
      },
    },
    { name: "runc exec", measure: () => timed([...runc, "exec", sleeper, "true"]) },
    {
      name: "runc create, start, delete",
      measure: () => {
        turn += 1;
        return timed(["sh", "-c", LIFE, "sh", join(folder, "runc"), folder, `floor-life-${process.pid}-${turn}`, "1"]);
      },
    },
    {
      name: `the same, ${STRESS_WORKERS} at a time, each`,
      measure: async () => {
        turn += 1;
        const each = STRESS_CONTAINERS / STRESS_WORKERS;
        const start = performance.now();
        await Promise.all(
          Array.from({ length: STRESS_WORKERS }, async (_, worker) => {
            const id = `floor-${process.pid}-${turn}-${worker}`;
            await succeed(["sh", "-c", LIFE, "sh", join(folder, "runc"), folder, id, String(each)], {
              PATH: process.env["PATH"] ?? "",
            });
          }),
        );
        return (performance.now() - start) / STRESS_CONTAINERS;
      },
    },
  ];
}
