import { expect, test } from "bun:test";
import {
  checkpointArguments,
  createArguments,
  execArguments,
  globalArguments,
  NO_STDIO,
  restoreArguments,
} from "./client.ts";

const create = { bundle: "/b", pidFile: "/b/init.pid", noPivotRoot: false, noNewKeyring: false, stdio: NO_STDIO };

test("the runtime is called as the peer calls it", () => {
  const settings = { command: "runc", root: "/r/ns", log: "/b/log.json", env: {} };
  expect(globalArguments({ ...settings, systemdCgroup: false })).toEqual([
    "--root",
    "/r/ns",
    "--log",
    "/b/log.json",
    "--log-format",
    "json",
  ]);
  expect(globalArguments({ ...settings, systemdCgroup: true })).toContain("--systemd-cgroup");
  expect(createArguments("a", create)).toEqual(["create", "--bundle", "/b", "--pid-file", "/b/init.pid", "a"]);
  expect(createArguments("a", { ...create, noPivotRoot: true, noNewKeyring: true, consoleSocket: "/s" })).toEqual([
    "create",
    "--bundle",
    "/b",
    "--console-socket",
    "/s",
    "--pid-file",
    "/b/init.pid",
    "--no-pivot",
    "--no-new-keyring",
    "a",
  ]);
  expect(execArguments("a", { pidFile: "/b/e.pid", stdio: NO_STDIO }, "/p")).toEqual([
    "exec",
    "--process",
    "/p",
    "--detach",
    "--pid-file",
    "/b/e.pid",
    "a",
  ]);
  const checkpoint = {
    imagePath: "/i",
    workPath: "/w",
    leaveRunning: true,
    openTcp: true,
    externalUnixSockets: true,
    terminal: true,
    fileLocks: true,
    emptyNamespaces: ["network"],
    cgroupsMode: "soft",
  };
  expect(checkpointArguments("a", checkpoint).join(" ")).toBe(
    "checkpoint --image-path /i --work-path /w --tcp-established --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode soft --empty-ns network --leave-running a",
  );
  expect(restoreArguments("a", { ...create, imagePath: "/i", workPath: "/w", parentPath: "/p" }).join(" ")).toBe(
    "restore --image-path /i --work-path /w --parent-path /p --detach --no-subreaper --bundle /b --pid-file /b/init.pid a",
  );
});
