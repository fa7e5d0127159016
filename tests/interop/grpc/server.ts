// The services the Python client drives: behaviour by the digest or ref of a request.
import { classified } from "@stevedore/base";
import { type CallContext, Router } from "@stevedore/wire";
import { Content, WriteAction } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";

const BLOCK = new Uint8Array(1 << 20).fill(7);

/** Calls that pend now. */
export const pending = new Set<CallContext>();

export function tortureRouter(): Router {
  return new Router().service(Content, {
    async info({ digest }, context) {
      if (digest === "bad") {
        throw classified("not-found", "ü%: not found", {
          details: [{ typeUrl: "type.googleapis.com/x.Y", value: new Uint8Array(16 << 10) }],
        });
      }
      if (digest === "metadata") {
        context.responseHeaders.set("x-head", context.metadata.all("x-text").join("+"));
        context.responseTrailers.set("x-tail-bin", context.metadata.get("x-data-bin") ?? "");
      }
      return { info: { digest } };
    },
    delete: (_request, context) =>
      new Promise((_resolve, reject) => {
        pending.add(context);
        context.signal.addEventListener("abort", () => {
          pending.delete(context);
          reject(context.signal.reason);
        });
      }),
    async *read({ size, digest }) {
      if (digest === "largest" || digest === "exact") yield { data: new Uint8Array(Number(size)) };
      else if (digest === "small") yield { data: new Uint8Array(Number(size)) };
      else for (let at = 0n; at < size; at += BigInt(BLOCK.length)) yield { data: BLOCK, offset: at };
    },
    async *write(requests) {
      let total = 0n;
      for await (const { data, action } of requests) {
        total += BigInt(data.length);
        if (action === WriteAction.COMMIT) yield { action, offset: total };
      }
      yield { offset: total };
    },
  });
}
