// What walk-throughs start: a web server on the host's network, and a bundle made by hand.
import { existsSync } from "node:fs";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { freePort } from "./ports.ts";
import { eventually, exec } from "./process.ts";
import type { Stage } from "./row.ts";

const PATH = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };

/** The page a service shows the host, or undefined when it does not answer in time. */
export async function visit(port: number, withinMs = 2000): Promise<string | undefined> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(withinMs) });
    return await answer.text();
  } catch {
    return undefined;
  }
}

/** Runs a web server on the host's network, detached. @returns its port, once it answers "first" */
export async function serve(t: Stage, id: string, ...flags: string[]): Promise<number> {
  const port = freePort();
  const server = `mkdir -p /www && echo first > /www/index.html && exec httpd -f -p 127.0.0.1:${port} -h /www`;
  await t.must("run", "-d", "--net-host", ...flags, await t.image(), id, "sh", "-c", server);
  await eventually("the service to answer", async () => visit(port));
  return port;
}

/** How the kernel says that a process is frozen: v1's freezer or v2's cgroup.freeze. */
export async function frozen(pid: number): Promise<boolean> {
  for (const line of (await readFile(`/proc/${pid}/cgroup`, "utf8")).trim().split("\n")) {
    const [, controllers = "", path = ""] = line.split(":");
    if (controllers === "freezer") {
      return (await readFile(`/sys/fs/cgroup/freezer${path}/freezer.state`, "utf8")).trim() === "FROZEN";
    }
    if (controllers === "" && existsSync(`/sys/fs/cgroup${path}/cgroup.freeze`)) {
      return (await readFile(`/sys/fs/cgroup${path}/cgroup.freeze`, "utf8")).trim() === "1";
    }
  }
  throw new Error(`process ${pid} is in no cgroup that can be frozen`);
}

/** A root file system of busybox and a spec that runc makes for it. @returns the bundle's folder */
export async function bundle(t: Stage, name: string, args: readonly string[]): Promise<string> {
  const folder = t.path(t.id(name));
  await mkdir(`${folder}/rootfs/bin`, { recursive: true });
  for (const point of ["proc", "dev", "sys"]) await mkdir(`${folder}/rootfs/${point}`);
  await exec(["cp", "/bin/busybox", `${folder}/rootfs/bin/busybox`]);
  for (const applet of ["sh", "echo", "sleep", "ps"]) await symlink("busybox", `${folder}/rootfs/bin/${applet}`);
  const made = await exec(["runc", "spec"], { cwd: folder, env: PATH });
  if (made.code !== 0) throw new Error(`runc spec: ${made.stderr}`);
  const text = await readFile(`${folder}/config.json`, "utf8");
  const spec = text
    .replace('"terminal": true', '"terminal": false')
    .replace(/"args": \[[^\]]*\]/, `"args": ${JSON.stringify(args)}`)
    .replace(/\{\s*"type": "network"\s*\},\s*/, "");
  await writeFile(`${folder}/config.json`, spec);
  return folder;
}
