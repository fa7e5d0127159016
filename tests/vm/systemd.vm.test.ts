// Debian 12's systemd: our unit as `make install` puts it, and runc's systemd cgroup driver. The unit's cases go on from each other.
import { expect } from "bun:test";
import { repository } from "../harness/daemon.ts";
import { IMAGE } from "../harness/images.ts";
import { ARCHIVE, guestWorld } from "../harness/vm/row.ts";

const world = guestWorld({ kind: "systemd" });

const MEMORY = 67_108_864;
/** Decision 0131. */
const UNSEEN = "not yet seen to run to its end";
const FUNCTIONS = `
until_true() { local n=0; until "$@"; do n=$((n + 1)); if [ $n -gt 3000 ]; then echo "waited five minutes for: $*" >&2; return 1; fi; sleep 0.1; done; }
main_pid() { systemctl show -p MainPID --value containerd; }
active() { [ "$(systemctl is-active containerd)" = active ]; }
stopped() { [ "$(status_of "$1")" = STOPPED ]; }
no_mounts() { ! grep -q /run/containerd/ /proc/mounts && ! grep -q /run/containerd/ "/proc/$(main_pid)/mounts"; }
end_of() { ctr tasks delete "$1" 2>&1 | grep -o 'exit code [0-9]*'; ctr containers delete "$1"; }
status_of() { ctr tasks ls | awk -v id="$1" '$1 == id { print $3 }'; }
`;
/** What the unit's cases begin with: functions, then whatever is missing of an installed unit, a running daemon and the container "web". */
const TOOLS = `${FUNCTIONS}
[ -e /usr/local/bin/containerd ] || { tools/install.sh install >/dev/null; systemctl daemon-reload; }
[ "$(systemctl is-active containerd)" != inactive ] || systemctl start containerd
ctr images ls -q | grep -q . || ctr images import ${ARCHIVE} >/dev/null
[ "$(status_of web)" = RUNNING ] || ctr run -d ${IMAGE} web sleep 100000
`;

world.plain(
  "B01",
  "make install: the unit is one systemd-analyze has nothing against",
  { seconds: 5 },
  async (guest) => {
    const said = await guest.must(`tools/install.sh install 2>&1`);
    expect(said).toContain("/usr/local/lib/systemd/system/containerd.service");
    const verified = await guest.run("systemctl daemon-reload && systemd-analyze verify containerd.service");
    expect(verified).toEqual({ code: 0, stdout: "", stderr: "" });
  },
);

world.plain("B02", "systemctl start comes back when the daemon is ready to answer", { seconds: 6 }, async (guest) => {
  await guest.must("systemctl start containerd");
  expect(await guest.must("systemctl is-active containerd")).toBe("active\n");
  expect(await guest.must("systemctl show -p Type -p SubState -p NotifyAccess containerd")).toBe(
    "Type=notify\nNotifyAccess=main\nSubState=running\n",
  );
  // At once: nobody waits for the socket.
  expect(await guest.must("ctr version")).toContain("Server:");
});

world.plain(
  "B04",
  "systemctl status: active (running), the main process, tasks, memory",
  { seconds: 2 },
  async (guest) => {
    const status = await guest.must("systemctl status --no-pager containerd");
    expect(status).toMatch(/Active: active \(running\)/);
    expect(status).toMatch(/Main PID: \d+ \(containerd\)/);
    expect(status).toMatch(/Tasks: \d+/);
    expect(status).toMatch(/Memory: [\d.]+M/);
  },
);

world.plain(
  "B05",
  "the unit's limits and OOM score hold for the daemon, and its cgroup is delegated",
  { seconds: 15 },
  async (guest) => {
    const of = await guest.must(`${TOOLS}
p=$(main_pid); cat /proc/$p/oom_score_adj; grep -E '^Max (processes|core file size)' /proc/$p/limits
systemctl show -p Delegate -p KillMode -p TasksMax -p Restart containerd`);
    expect(of).toMatch(/^-999\n/);
    expect(of).toMatch(/^Max processes +unlimited +unlimited/m);
    expect(of).toMatch(/^Max core file size +unlimited +unlimited/m);
    for (const line of ["Delegate=yes", "KillMode=process", "TasksMax=infinity", "Restart=always"])
      expect(of).toContain(`${line}\n`);
  },
);

world.plain(
  "B05 B07",
  "kill -9 of the daemon: systemd starts it again, the container goes on, exec works, its exit status is told",
  { seconds: 20 },
  async (guest) => {
    const said = await guest.must(
      `${TOOLS}
ctr run -d ${IMAGE} late sh -c 'until [ -e /go ]; do sleep 0.1; done; exit 9'
p=$(main_pid); init=$(ctr tasks ls | awk '$1 == "web" { print $2 }'); late=$(ctr tasks ls | awk '$1 == "late" { print $2 }')
kill -9 $p; touch /proc/$late/root/go
again() { active && [ "$(main_pid)" != $p ] && [ "$(main_pid)" != 0 ]; }
until_true again
systemctl show -p NRestarts containerd
[ "$init" = "$(ctr tasks ls | awk '$1 == "web" { print $2 }')" ] && echo same process
status_of web; ctr tasks exec --exec-id e web echo from inside
until_true stopped late
end_of late`,
    );
    expect(said).toBe("NRestarts=1\nsame process\nRUNNING\nfrom inside\nexit code 9\n");
  },
);

world.plain(
  "B05 A13",
  "systemctl restart: containers go on, and a changed configuration is in effect",
  { seconds: 12 },
  async (guest) => {
    const said = await guest.must(
      `${TOOLS}
init=$(ctr tasks ls | awk '$1 == "web" { print $2 }')
mkdir -p /etc/containerd; printf 'version = 3\\n[debug]\\n level = "debug"\\n' >/etc/containerd/config.toml
systemctl restart containerd
[ "$init" = "$(ctr tasks ls | awk '$1 == "web" { print $2 }')" ] && echo same process
journalctl -u containerd -o cat _PID=$(main_pid) | grep -c level=debug | sed 's/^[1-9].*/debug lines/'`,
    );
    expect(said).toBe("same process\ndebug lines\n");
  },
);

world.plain(
  "B06",
  "MountFlags=slave: after a restart the live container has its root file system, and its mounts go with it",
  { seconds: 25 },
  async (guest) => {
    const said = await guest.must(
      `${TOOLS}
mkdir -p /etc/systemd/system/containerd.service.d
printf '[Service]\\nMountFlags=slave\\n' >/etc/systemd/system/containerd.service.d/slave.conf
systemctl daemon-reload; systemctl restart containerd
[ "$(readlink /proc/1/ns/mnt)" != "$(readlink /proc/$(main_pid)/ns/mnt)" ] && echo own mounts
ctr run -d ${IMAGE} inner sleep 100000
systemctl restart containerd
for id in web inner; do status_of $id; ctr tasks exec --exec-id f $id cat /etc/hostname >/dev/null || ctr tasks exec --exec-id g $id ls /bin/busybox; done
for id in web inner; do ctr tasks kill -s KILL $id; until_true stopped $id; end_of $id; done
rm -r /etc/systemd/system/containerd.service.d; systemctl daemon-reload; systemctl restart containerd
until_true no_mounts
grep -c /run/containerd/ /proc/mounts; grep -c /run/containerd/ /proc/$(main_pid)/mounts; true`,
    );
    expect(said.replaceAll("/bin/busybox\n", "")).toBe(
      "own mounts\nRUNNING\nRUNNING\nexit code 137\nexit code 137\n0\n0\n",
    );
  },
);

world.plain(
  "B05",
  "systemctl stop ends the daemon alone; started again it has the container, which can be removed",
  { seconds: 15 },
  async (guest) => {
    const said = await guest.must(
      `${TOOLS}
ctr run -d ${IMAGE} kept sleep 100000
p=$(ctr tasks ls | awk '$1 == "kept" { print $2 }')
systemctl stop containerd; systemctl is-active containerd; kill -0 $p && echo alive
systemctl start containerd; status_of kept
ctr tasks kill -s KILL kept; until_true stopped kept; end_of kept; ctr containers ls -q | grep kept; true`,
    );
    expect(said).toBe("inactive\nalive\nRUNNING\nexit code 137\n");
  },
);

world.plain(
  "B03",
  "systemctl enable: after a restart of the machine the daemon runs, and knows its containers",
  { seconds: 60, waits: UNSEEN },
  async (guest) => {
    await guest.must(
      `${TOOLS} ctr containers create ${IMAGE} boot sleep 100000 && ctr tasks start -d boot && systemctl enable containerd 2>/dev/null`,
    );
    expect(await guest.must("systemctl is-enabled containerd")).toBe("enabled\n");
    await guest.reboot();
    const said = await guest.must(
      `${FUNCTIONS}
until_true active; ctr containers ls -q; ctr tasks ls -q; ctr tasks start -d boot && status_of boot
ctr tasks kill -s KILL boot; until_true stopped boot; end_of boot
systemctl disable containerd 2>/dev/null; systemctl is-enabled containerd; systemctl stop containerd`,
    );
    expect(said).toBe("boot\nweb\nRUNNING\nexit code 137\ndisabled\n");
  },
);

world.plain("B01", "make uninstall leaves no file of ours", { seconds: 3 }, async (guest) => {
  await guest.must("tools/install.sh uninstall && systemctl daemon-reload");
  expect(
    await guest.must(
      // systemctl says with its status too that there is none.
      "find /usr/local -type f -not -name .keep -o -type l; systemctl list-unit-files 'containerd*' --no-legend || true",
    ),
  ).toBe("");
});

/** The unit an administrator writes by hand, and the configuration that guides of containerd 1.0 have for it. */
const W23_UNIT = `[Unit]
Description=containerd container runtime
After=network.target
[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/containerd
Delegate=yes
KillMode=process
[Install]
WantedBy=multi-user.target
`;
const W23_CONFIG = `subreaper = true
oom_score = -999

[debug]
        level = "debug"

[metrics]
        address = "127.0.0.1:1338"

[plugins.linux]
        runtime = "runc"
        shim_debug = true
`;
/** How each maker's programs come to /usr/local/bin: a package's files, or `make install`, whose unit the one in /etc goes before. */
const W23_INSTALL = {
  peer: `ln -s ${repository}/build/peer/usr/bin/{containerd,containerd-shim,containerd-shim-runc-v2,ctr} /usr/local/bin/`,
  ours: "tools/install.sh install >/dev/null",
} as const;
/** Nothing of a daemon is there afterwards, whoever's it was and however far the case before came. */
const W23_CLEAR = `${FUNCTIONS}
if active; then
  for task in $(ctr tasks ls -q); do ctr tasks rm --force $task; done
  for container in $(ctr containers ls -q); do ctr containers rm $container; done
  systemctl stop containerd
fi
tools/install.sh uninstall >/dev/null
rm -rf /usr/local/bin/{containerd,containerd-shim,containerd-shim-runc-v2,ctr} /etc/systemd/system/containerd.service
rm -rf /etc/containerd /var/lib/containerd /run/containerd
systemctl daemon-reload
`;

for (const cast of ["peer", "ours"] as const) {
  world.plain(
    "W23",
    `containerd.service written by hand with a configuration of version 1.0: started, and each of its keys has its effect [${cast}]`,
    {
      covers: ["config:oom_score", "config:plugins.io.containerd.server.v1.metrics.address", "config:debug.level"],
      seconds: 20,
    },
    async (guest) => {
      await guest.must(`${W23_CLEAR}
${W23_INSTALL[cast]}
mkdir -p /etc/containerd; printf %s '${W23_CONFIG}' >/etc/containerd/config.toml
printf %s '${W23_UNIT}' >/etc/systemd/system/containerd.service
systemctl daemon-reload && systemctl start containerd && until_true ctr version >/dev/null`);
      const said = await guest.must(
        `${FUNCTIONS}
systemctl is-active containerd; systemctl show -p FragmentPath --value containerd
cat /proc/$(main_pid)/oom_score_adj
journalctl -u containerd -o cat _PID=$(main_pid) | grep -c level=debug | sed 's/^[1-9].*/debug lines/'
/usr/bin/python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:1338/v1/metrics").read().decode())' | grep -o '^# TYPE grpc_server_handled_total counter'
ctr images import ${ARCHIVE} >/dev/null
ctr run --rm ${IMAGE} first sh -c 'echo from inside; exit 3'; echo $?
ctr run -d ${IMAGE} second sleep 100000; runc --root /run/containerd/runc/default list -q
ctr tasks kill -s KILL second; until_true stopped second; end_of second`,
      );
      expect(said).toBe(
        [
          "active",
          "/etc/systemd/system/containerd.service",
          "-999",
          "debug lines",
          "# TYPE grpc_server_handled_total counter",
          "from inside",
          "3",
          "second",
          "exit code 137",
          "",
        ].join("\n"),
      );
      await guest.must(W23_CLEAR);
    },
  );
}

world.row(
  "J13 F14",
  "the systemd cgroup driver: a scope of the asked slice and name, with the limits as its properties, gone with the container",
  { covers: ["flag:ctr run --runc-systemd-cgroup"], seconds: 15 },
  async (t) => {
    const run = `ctr run -d --runc-systemd-cgroup --cgroup "system.slice:stv:$id" --memory-limit ${MEMORY} $image $id sleep 1000`;
    await t.must(run);
    const scope = `stv-${t.id}.scope`;
    expect(await t.must(`systemctl show -p ActiveState -p Slice -p MemoryMax ${scope}`)).toBe(
      `Slice=system.slice\nMemoryMax=${MEMORY}\nActiveState=active`,
    );
    expect(await t.must('cat "/proc/$(pid "$id")/cgroup"')).toBe(`0::/system.slice/${scope}`);
    expect(await t.must("ctr tasks metrics $id")).toMatch(RegExp(`memory\\.usage_limit +${MEMORY}`));
    expect(await t.must("ctr tasks exec --exec-id e $id cat /proc/self/cgroup")).toBe(`0::/system.slice/${scope}`);
    await t.must("ctr tasks pause $id");
    expect(await t.must(`cat /sys/fs/cgroup/system.slice/${scope}/cgroup.freeze`)).toBe("1");
    await t.must("ctr tasks resume $id");
    // Over systemd too a daemon-reload does not take the limits away.
    await t.must("systemctl daemon-reload");
    expect(await t.must(`cat /sys/fs/cgroup/system.slice/${scope}/memory.max`)).toBe(String(MEMORY));
    await t.must("ctr tasks kill -s KILL $id");
    await t.must("stopped() { ctr tasks ls | grep -q STOPPED; }; until_true stopped");
    expect(await t.must("ctr tasks delete $id 2>&1")).toContain("non-zero exit code 137");
    expect(
      await t.must(
        `systemctl show -p LoadState ${scope}; ls -d /sys/fs/cgroup/system.slice/${scope} 2>/dev/null; true`,
      ),
    ).toBe("LoadState=not-found");
  },
);

world.leavesNothing();
