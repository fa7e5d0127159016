// The status table's cases of the sandbox services, which Debian's containerd does not have.
import { Controller, Store } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import type { MethodCases } from "./status-cases.ts";
import { SPEC, type World } from "./status-world.ts";

const READS = "it changes nothing";
const NONE = { sandboxId: "none", sandboxer: "shim" };
const UNNAMED = { sandboxId: "none" };

const record = (sandboxId: string) => ({
  sandboxId,
  sandboxer: "shim",
  runtime: { name: "io.containerd.runc.v2" },
  spec: SPEC,
});

async function stored(w: World): Promise<string> {
  const id = w.name("sandbox");
  await w.stub(Store).create({ sandbox: record(id) }, w.call());
  return id;
}

/** Does something with a sandbox that was made, and takes it down. */
async function made<T>(w: World, use: (named: { sandboxId: string; sandboxer: string }) => Promise<T>): Promise<T> {
  const named = { sandboxId: w.name("sandbox"), sandboxer: "shim" };
  await w.stub(Controller).create({ ...named, sandbox: record(named.sandboxId) }, w.call());
  try {
    return await use(named);
  } finally {
    // The case may have been to take it down.
    await w
      .stub(Controller)
      .shutdown(named, w.call())
      .catch(() => undefined);
  }
}

/** The same with one that was started. */
async function running<T>(w: World, use: (named: { sandboxId: string; sandboxer: string }) => Promise<T>): Promise<T> {
  return made(w, async (named) => {
    await w.stub(Controller).start(named, w.call());
    return use(named);
  });
}

/** Cases by method. */
export const SANDBOX_CASES: Readonly<Record<string, MethodCases>> = {
  "containerd.services.sandbox.v1.Store/Create": {
    success: async (w) => w.stub(Store).create({ sandbox: record(w.name("sandbox")) }, w.call()),
    missing: "its runtime is looked for when it runs",
    conflict: async (w) => w.stub(Store).create({ sandbox: record(await stored(w)) }, w.call()),
    invalid: async (w) => w.stub(Store).create({ sandbox: record("not/an/id") }, w.call()),
  },
  "containerd.services.sandbox.v1.Store/Update": {
    success: async (w) =>
      w
        .stub(Store)
        .update({ sandbox: { ...record(await stored(w)), labels: { a: "b" } }, fields: ["labels.a"] }, w.call()),
    missing: async (w) => w.stub(Store).update({ sandbox: record("none") }, w.call()),
    conflict: async (w) => {
      const sandbox = { ...record(await stored(w)), runtime: { name: "io.containerd.other.v1" } };
      return w.stub(Store).update({ sandbox }, w.call());
    },
    invalid: async (w) => w.stub(Store).update({ sandbox: record(await stored(w)), fields: ["sandboxer"] }, w.call()),
  },
  "containerd.services.sandbox.v1.Store/Delete": {
    success: async (w) => w.stub(Store).delete({ sandboxId: await stored(w) }, w.call()),
    missing: async (w) => w.stub(Store).delete({ sandboxId: "none" }, w.call()),
    conflict: async (w) =>
      running(w, async ({ sandboxId }) => {
        // A record may go while its sandbox runs, as in the peer.
        await w.stub(Store).create({ sandbox: record(sandboxId) }, w.call());
        return w.stub(Store).delete({ sandboxId }, w.call());
      }),
    invalid: async (w) => w.stub(Store).delete({ sandboxId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.sandbox.v1.Store/List": {
    success: async (w) => w.stub(Store).list({ filters: [`id==${await stored(w)}`] }, w.call()),
    missing: "a filter that fits nothing gives nothing",
    conflict: READS,
    invalid: async (w) => w.stub(Store).list({ filters: ["name=="] }, w.call()),
  },
  "containerd.services.sandbox.v1.Store/Get": {
    success: async (w) => w.stub(Store).get({ sandboxId: await stored(w) }, w.call()),
    missing: async (w) => w.stub(Store).get({ sandboxId: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Store).get({ sandboxId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.sandbox.v1.Controller/Create": {
    success: async (w) => made(w, async () => undefined),
    missing: async (w) => w.stub(Controller).create({ sandboxId: "none", sandboxer: "nobody" }, w.call()),
    conflict: async (w) =>
      running(w, async (named) => w.stub(Controller).create({ ...named, sandbox: record(named.sandboxId) }, w.call())),
    // Without a record nobody knows the runtime.
    invalid: async (w) => w.stub(Controller).create({ ...NONE, sandboxId: w.name("bare") }, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Start": {
    success: async (w) => running(w, async (named) => w.stub(Controller).start(named, w.call())),
    missing: async (w) => w.stub(Controller).start(NONE, w.call()),
    conflict: async (w) =>
      running(w, async (named) => {
        await w.stub(Controller).stop(named, w.call());
        return w.stub(Controller).start(named, w.call());
      }),
    invalid: async (w) => w.stub(Controller).start(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Platform": {
    success: async (w) => running(w, async (named) => w.stub(Controller).platform(named, w.call())),
    missing: async (w) => w.stub(Controller).platform(NONE, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Controller).platform(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Stop": {
    success: async (w) => running(w, async (named) => w.stub(Controller).stop(named, w.call())),
    missing: async (w) => w.stub(Controller).stop(NONE, w.call()),
    conflict: async (w) =>
      running(w, async (named) => {
        await w.stub(Controller).stop(named, w.call());
        return w.stub(Controller).stop({ ...named, timeoutSecs: 5 }, w.call());
      }),
    invalid: async (w) => w.stub(Controller).stop(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Wait": {
    success: async (w) =>
      running(w, async (named) => {
        await w.stub(Controller).stop(named, w.call());
        return w.stub(Controller).wait(named, w.call());
      }),
    missing: async (w) => w.stub(Controller).wait(NONE, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Controller).wait(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Status": {
    success: async (w) => running(w, async (named) => w.stub(Controller).status({ ...named, verbose: true }, w.call())),
    missing: async (w) => w.stub(Controller).status(NONE, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Controller).status(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Shutdown": {
    success: async (w) => running(w, async (named) => w.stub(Controller).shutdown(named, w.call())),
    missing: async (w) => w.stub(Controller).shutdown(NONE, w.call()),
    conflict: async (w) =>
      running(w, async (named) => {
        await w.stub(Controller).shutdown(named, w.call());
        return w.stub(Controller).shutdown(named, w.call());
      }),
    invalid: async (w) => w.stub(Controller).shutdown(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Metrics": {
    success: async (w) => running(w, async (named) => w.stub(Controller).metrics(named, w.call())),
    missing: async (w) => w.stub(Controller).metrics(NONE, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Controller).metrics(UNNAMED, w.call()),
  },
  "containerd.services.sandbox.v1.Controller/Update": {
    success: async (w) =>
      running(w, async (named) => w.stub(Controller).update({ ...named, sandbox: record(named.sandboxId) }, w.call())),
    missing: async (w) => w.stub(Controller).update({ ...NONE, sandbox: record("none") }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) => w.stub(Controller).update(NONE, w.call()),
  },
};
